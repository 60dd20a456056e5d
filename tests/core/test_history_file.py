"""Histories that are kept in a file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.checkpoint import load_selector, save_selector
from layerselect.core import history as history_module
from layerselect.core.history import History
from layerselect.core.history_file import read_history

from tests.core.recorded import CPU, NAMES, check, record
from tests.helpers.models import plain, plain_loss


def test_every_step_is_in_the_file(tmp_path, monkeypatch, said):
    monkeypatch.setattr(history_module, "DEFAULT_ROWS", 1000)
    path = tmp_path / "new" / "history"
    history = History(NAMES, CPU, keep=str(path))
    assert len(history) == 0 and not path.exists()
    record(history, 0, 3000)
    check(history.arrays(), list(range(3000)))
    check(read_history(path), list(range(3000)))
    assert len(history) == 3000 and history.dropped == 0
    assert len(history.state_dict()["step"]) == 1000
    assert not said("")


def test_a_killed_run_continues_its_file(tmp_path, said):
    path = tmp_path / "history"
    first = History(NAMES, CPU, keep=path)
    record(first, 0, 300)
    state = first.state_dict()
    record(first, 300, 1300)  # after the checkpoint
    with path.open("ab") as file:
        file.write(b"half a row")
    steps = read_history(path)["step"].tolist()
    assert steps[:300] == list(range(300)) and len(steps) > 700
    second = History(NAMES, CPU, keep=path)
    second.load_state_dict(state)
    record(second, 300, 900)
    second.close()
    check(read_history(path), list(range(900)))
    assert not said("")


def test_a_file_that_lacks_what_the_state_has_gets_it(tmp_path, said):
    first = History(NAMES, CPU, keep=tmp_path / "one")
    record(first, 0, 700)
    second = History(NAMES, CPU, keep=tmp_path / "two")
    second.load_state_dict(first.state_dict())
    check(read_history(tmp_path / "two"), list(range(700)))
    short = History(NAMES, CPU, keep=50)
    record(short, 0, 700)
    third = History(NAMES, CPU, keep=tmp_path / "three")
    third.load_state_dict(short.state_dict())
    check(third.arrays(), list(range(650, 700)))
    assert said("lacks the steps 0 to 649")


def test_a_fresh_run_replaces_an_earlier_file_and_says_so(tmp_path, said):
    for steps in (600, 10):
        history = History(NAMES, CPU, keep=tmp_path / "history")
        record(history, 0, steps)
        check(history.arrays(), list(range(steps)))
    assert len(said("earlier run at")) == 1


@pytest.mark.parametrize("content", [b"years of work", b'{"a": 1}\n', b"[1]\n", b'{"layerselect_history": 9}\n'])
def test_other_files_are_not_touched(tmp_path, content):
    path = tmp_path / "thesis.txt"
    path.write_bytes(content)
    with pytest.raises(LayerSelectError, match="pass another path"):
        History(NAMES, CPU, keep=path)
    assert path.read_bytes() == content
    with pytest.raises(LayerSelectError, match="there is no history"):
        read_history(tmp_path / "nowhere")
    with pytest.raises(LayerSelectError, match="cannot be read"):
        History(NAMES, CPU, keep=tmp_path)


def test_the_file_of_another_model_is_refused(tmp_path):
    first = History(NAMES, CPU, keep=tmp_path / "history")
    record(first, 0, 3)
    state = first.state_dict()
    second = History(["x", "y", "z"], CPU, keep=tmp_path / "history")
    with pytest.raises(LayerSelectError, match="is of another model"):
        second.load_state_dict(state)


def test_a_full_disk_does_not_end_the_training(tmp_path, monkeypatch, said):
    history = History(NAMES, CPU, keep=tmp_path / "history")
    record(history, 0, 300)
    history.collect()

    def full(columns):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(history._file, "append", full)
    record(history, 300, 2000)
    check(history.arrays(), list(range(2000)))
    assert len(said("No space left on device")) == 1


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    history = History(NAMES, CPU, keep=tmp_path / "history")
    record(history, 0, 20)
    history.close()
    check(history.arrays(), list(range(20)))
    assert not (tmp_path / "history").exists()


def train(selector: FastSelector, model: torch.nn.Module, first: int, last: int) -> None:
    for step in range(first, last):
        plain_loss(model, step).backward()
        selector.step()
        model.zero_grad()


@pytest.mark.parametrize("file", [False, True])
def test_the_option_of_the_selector(tmp_path, file):
    option = tmp_path / "history" if file else 5
    model = plain(layers=3)
    selector = FastSelector(model, mode="gate", history=option)
    train(selector, model, 0, 9)
    save_selector(selector, tmp_path)
    train(selector, model, 9, 14)
    expected = selector.history.arrays()
    assert len(expected["step"]) == (14 if file else 5)
    selector.close()
    if file:
        assert (read_history(option)["scores"] == expected["scores"]).all()
    model = plain(layers=3)
    with FastSelector(model, mode="gate", history=option) as other:
        load_selector(other, tmp_path)
        train(other, model, 9, 14)
        for name, column in other.history.arrays().items():
            assert np.array_equal(column, expected[name], equal_nan=True), name
    assert (other.history.to_pandas()["step"].to_numpy()[::3] == expected["step"]).all()


def test_replaced_parameters_keep_the_file(tmp_path):
    model = plain(layers=3)
    with FastSelector(model, mode="gate", history=tmp_path / "history") as selector:
        train(selector, model, 0, 4)
        for block in model.blocks:
            block[1].weight = torch.nn.Parameter(block[1].weight.detach().clone())
        train(selector, model, 4, 7)
        assert selector.history.arrays()["step"].tolist() == list(range(7))
