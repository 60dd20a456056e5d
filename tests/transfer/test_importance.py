"""The file that says how often each layer was selected."""

import json
import re

import pytest
from layerselect import FastSelector, LayerSelectError
from layerselect.tasks.run.importance import importance
from layerselect.transfer import Importance, read_importance

from tests.helpers.models import plain, plain_loss


def finished_run(folder, **changes):
    """A run's folder with what a selector has recorded."""
    selector = FastSelector(plain(), "topk:k=2", mode="observe")
    for step in range(4):
        plain_loss(selector._model, step).backward()
        selector.step()
        selector._model.zero_grad()
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "layerselect.json").write_text("{}")
    (folder / "importance.json").write_text(json.dumps({**importance(selector), **changes}))
    return selector


def test_the_file_of_a_run_is_read(tmp_path):
    selector = finished_run(tmp_path / "run")
    counts = selector.frequency.tolist()
    expected = Importance(selector.layer_names, counts, 4, {"name": "topk", "k": 2}, counts)
    for path in ("run", "run/adapter", "run/importance.json"):
        assert read_importance(tmp_path / path) == expected
    assert read_importance(str(tmp_path / "run")) == expected
    assert sum(expected.frequency) == 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 2}, "has schema 2 and this version reads 1"),
        ({"schema": None}, "has schema null"),
        ({"layer_names": []}, "layer_names has 0 items"),
        ({"layer_names": [1]}, "layer_names[0] is 1 and must be a text"),
        ({"frequency": "many"}, "frequency is 'many' and must be a list"),
        ({"frequency": [1.5] * 6}, "frequency[0] is 1.5 and must be a whole number"),
        ({"frequency": [-1] * 6}, "frequency[0] is -1 and must be from 0"),
        ({"frequency": [True] * 6}, "frequency[0] is True and must be a whole number"),
        ({"frequency": [1] * 5}, "frequency has 5 items and must have 6"),
        ({"steps": "4"}, "steps is '4'"),
        ({"rule": "topk"}, "rule is 'topk'"),
        ({"rule": {}}, "rule holds no 'name'"),
        ({"trained_frequency": [1] * 5}, "trained_frequency has 5 items and must have 6"),
        ({"trained_frequency": ["a"] * 6}, "trained_frequency[0] is 'a' and must be a whole number"),
    ],
)
def test_damaged_importance(tmp_path, changes, words):
    finished_run(tmp_path / "run", **changes)
    with pytest.raises(LayerSelectError, match=re.escape(words)):
        read_importance(tmp_path / "run")


def test_missing_importance(tmp_path):
    finished_run(tmp_path / "run")
    file = tmp_path / "run" / "importance.json"
    for text in (b"", b"{", b"\xff", b"[]"):
        file.write_bytes(text)
        with pytest.raises(LayerSelectError, match="train the predictor again"):
            read_importance(tmp_path / "run")
    file.unlink()
    for path in ("run", "run/adapter"):
        with pytest.raises(LayerSelectError, match=r"holds no importance\.json"):
            read_importance(tmp_path / path)
    with pytest.raises(LayerSelectError, match="there is no '.*away'"):
        read_importance(tmp_path / "away")


def test_a_file_of_an_early_release_is_read(tmp_path):
    selector = finished_run(tmp_path / "run")
    path = tmp_path / "run" / "importance.json"
    content = json.loads(path.read_text())
    del content["trained_frequency"]
    path.write_text(json.dumps(content))
    found = read_importance(path)
    assert found.trained_frequency is None
    assert found.frequency == selector.frequency.tolist()
