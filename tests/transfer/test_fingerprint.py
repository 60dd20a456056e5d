"""Which base model is it?"""

import copy
import re

import pytest
import torch
from layerselect import LayerSelectError
from layerselect.models.adapters import add_adapter
from layerselect.models.load import load_causal_lm, load_classifier
from layerselect.transfer import base_fingerprint

from tests.transfer.setting import ARCHITECTURES, LABELS, config, save_base


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_checkpoint_has_one_fingerprint_whatever_its_head(bases, architecture, tmp_path):
    classifier = load_classifier(bases[architecture], LABELS, multi_label=False)
    writer = load_causal_lm(bases[architecture])
    mark = base_fingerprint(writer.model, writer.layer_names)
    assert re.fullmatch("[0-9a-f]{64}", mark)
    assert base_fingerprint(classifier.model, classifier.layer_names) == mark
    other = load_causal_lm(save_base(tmp_path / "other", architecture, seed=9))
    assert base_fingerprint(other.model, other.layer_names) != mark


def test_what_changes_a_fingerprint(bases):
    writer = load_causal_lm(bases["llama"])
    names = writer.layer_names
    mark = base_fingerprint(writer.model, names)
    assert base_fingerprint(writer.model, names[::-1]) != mark
    assert base_fingerprint(writer.model, names[:2]) != mark
    weight = writer.model.get_submodule(names[1]).mlp.up_proj.weight
    with torch.no_grad():
        weight[3, 5] += 1e-3  # every element of a small tensor counts
    assert base_fingerprint(writer.model, names) != mark
    assert base_fingerprint(writer.model.to(torch.bfloat16), names) != mark
    add_adapter(writer, config("lora"))
    with pytest.raises(LayerSelectError, match="holds an adapter"):
        base_fingerprint(writer.model, names)


def test_large_tensors_are_sampled_evenly():
    model = torch.nn.ModuleList([torch.nn.Linear(300, 100, bias=False)])
    mark = base_fingerprint(model, ["0"])
    seen = torch.arange(4096) * 30000 // 4096
    changed = []
    for place in (0, int(seen[1]), int(seen[2000]), int(seen[-1]), 1):
        other = copy.deepcopy(model)
        with torch.no_grad():
            other[0].weight.view(-1)[place] += 1
        changed.append(base_fingerprint(other, ["0"]) != mark)
    assert changed == [True, True, True, True, False]
    with pytest.raises(LayerSelectError, match="hold no parameter"):
        base_fingerprint(torch.nn.ModuleList([torch.nn.ReLU()]), ["0"])
