"""Every message can be written, whatever file names and configurations put into it."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
from layerselect import LayerSelectError
from layerselect.data import CorpusError
from layerselect.models.load import load_classifier


@pytest.mark.parametrize("kind", [LayerSelectError, CorpusError])
def test_half_a_surrogate_pair_is_written_as_an_escape(kind):
    error = kind("the file 'a\ud800b' is damaged")
    assert str(error) == "the file 'a\\ud800b' is damaged"
    str(error).encode()
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(kind("Ärger 中 🙂")) == "Ärger 中 🙂"


@pytest.mark.parametrize("value", ["a" * 70_000, "a b " * 20_000, 10**4000])
def test_a_message_that_repeats_a_long_value_stays_a_line(value):
    said = str(LayerSelectError(f"--rule {value!r} is no rule: use --rule variance"))
    assert len(said) < 2000 and said.startswith("--rule ") and said.endswith("is no rule: use --rule variance")
    assert str(LayerSelectError("x" * 1700)) == "x" * 1700


def test_a_family_that_nobody_knows_with_such_a_name(bert_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(bert_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "b\ud800rt", "architectures": None}))
    with pytest.raises(LayerSelectError) as caught:
        load_classifier(folder, ["a", "b"], multi_label=False)
    str(caught.value).encode()
