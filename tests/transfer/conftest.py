"""Bases and trained predictors, made once, and the check that a refused transfer wrote nothing."""

import shutil

import pytest
import torch
from layerselect import LayerSelectError
from layerselect.models.adapters import add_adapter
from layerselect.models.load import load_classifier
from layerselect.transfer import transfer_adapter

from tests.transfer.setting import (
    ARCHITECTURES,
    LABELS,
    config,
    everything,
    in_layers,
    same,
    save_base,
    save_run,
    tokens,
)


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """A folder for each architecture: three layers, random weights."""
    return {name: save_base(tmp_path_factory.mktemp(name), name) for name in ARCHITECTURES}


@pytest.fixture(scope="session")
def predictors(bases, tmp_path_factory):
    """Trained predictors by architecture and kind: the run's folder, and the parameters in its layers. Trained once,
    not changed.
    """
    made = {}

    def make(architecture, kind):
        if (architecture, kind) not in made:
            torch.manual_seed(1)
            loaded = load_classifier(bases[architecture], LABELS, multi_label=False)
            model = add_adapter(loaded, config(kind)).train()
            start = in_layers((n, p) for n, p in model.named_parameters() if p.requires_grad)
            optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
            for step in range(3):
                model(input_ids=tokens(step), labels=torch.tensor([0, 1])).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            end = in_layers(model.named_parameters())
            assert all(not torch.equal(start[key], end[key]) for key in start)
            folder = save_run(tmp_path_factory.mktemp("run"), loaded, model, kind)
            made[architecture, kind] = folder, {key: end[key] for key in start}
        return made[architecture, kind]

    return make


@pytest.fixture
def refused(bases):
    """Checks that a transfer is refused with these words, and that it wrote nothing."""

    def check(model, folder, words, layers=(0, 1), **options):
        before = everything(model)
        with pytest.raises(LayerSelectError) as caught:
            transfer_adapter(model, folder, layers, **options)
        message = str(caught.value)
        assert "\n" not in message
        for word in words:
            assert word in message
        assert same(everything(model), before)

    return check


@pytest.fixture
def run(predictors, tmp_path):
    """A copy of a predictor's run, to be damaged."""

    def make(kind="lora", architecture="llama"):
        return shutil.copytree(predictors(architecture, kind)[0], tmp_path / "run")

    return make
