"""The history is bounded or in a file, and knows what it lacks."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.checkpoint import load_selector, save_selector
from layerselect.core import history as history_module
from layerselect.core.history import History
from layerselect.core.history_file import read_history

from tests.helpers.models import plain, plain_loss

CPU = torch.device("cpu")
NAMES = ["a", "b", "c"]
RING = 512


def row(step: int) -> dict[str, torch.Tensor]:
    return {
        "scores": torch.tensor([step, step + 0.5, -step], dtype=torch.float32),
        "mask": torch.tensor([step % 2 == 0, True, False]),
        "trained": torch.tensor([True, step % 3 == 0, False]),
        "threshold": torch.tensor(float(step)),
    }


def record(history: History, first: int, last: int) -> None:
    for step in range(first, last):
        history.record(step=step, **row(step))


def replay(history: History, first: int, last: int) -> None:
    """The device writes its ring, and the host hears nothing."""
    for step in range(first, last):
        for name, value in {"step": torch.tensor(step), **row(step)}.items():
            history._ring[name][step % RING] = value


def check(arrays: dict[str, np.ndarray], steps: list[int]) -> None:
    assert arrays["step"].tolist() == steps
    for name in ("scores", "mask", "trained", "threshold"):
        expected = torch.stack([row(step)[name] for step in steps]).numpy()
        assert (arrays[name] == expected).all() and arrays[name].dtype == expected.dtype, name


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING, logger="layerselect")
    return lambda part: [record.getMessage() for record in caplog.records if part in record.getMessage()]


@pytest.mark.parametrize("keep", [1, 100, 600, 1500, 5000])
def test_the_last_steps_are_kept(keep, said):
    history = History(NAMES, CPU, keep=keep)
    for first in range(0, 3000, 100):
        record(history, first, first + 100)
        assert history._held <= keep + RING
    check(history.arrays(), list(range(max(0, 3000 - keep), 3000)))
    assert len(history) == min(keep, 3000)
    assert history.dropped == max(0, 3000 - keep) and history.missing == 0
    assert len(said("are dropped from now on: pass history=")) == (keep < 3000)
    assert len(history.state_dict()["step"]) == min(keep, 3000)


def test_the_default_is_bounded():
    history, count = History(NAMES, CPU), history_module.DEFAULT_ROWS
    steps = torch.arange(count)
    columns = {name: value.expand(count, *value.shape) for name, value in row(0).items()}
    history.load_state_dict({"step": steps, **columns})
    assert len(history) == count and history.dropped == 0
    record(history, count, count + 600)
    assert len(history.state_dict()["step"]) == count and history.dropped == 600
    assert sum(len(block["step"]) for block in history._blocks) <= count + RING


@pytest.mark.parametrize("stop", [0, 1, 255, 300, 1400])
def test_a_resumed_history_is_the_uninterrupted_one(stop):
    whole, first, second = (History(NAMES, CPU, keep=700) for _ in range(3))
    record(whole, 0, 2000)
    record(first, 0, stop)
    state = first.state_dict()
    record(second, 0, 40)  # of a run that is given up
    second.load_state_dict(state)
    record(second, stop, 2000)
    for name, column in whole.state_dict().items():
        assert torch.equal(column, second.state_dict()[name]), name
    assert second.dropped == 1300


def test_a_state_of_an_earlier_release_is_read():
    old, new = History(NAMES, CPU), History(NAMES, CPU, keep=10)
    record(old, 0, 50)
    new.load_state_dict({name: c for name, c in old.state_dict().items() if name not in ("dropped", "missing")})
    check(new.arrays(), list(range(40, 50)))
    assert (new.dropped, new.missing) == (40, 0)


def test_steps_that_were_overwritten_are_known(said):
    history = History(NAMES, CPU)
    record(history, 0, 20)
    replay(history, 20, 1400)
    assert history.missing == 1400 - RING
    check(history.arrays(), list(range(1400 - RING, 1400)))
    assert len(said("lacks 888 of the steps up to 1399")) == 1
    record(history, 1400, 1500)
    replay(history, 1500, 2500)
    check(history.arrays(), [*range(1400 - RING, 1400), *range(2500 - RING, 2500)])
    assert history.missing == 888 + 1100 - RING
    assert len(said("history lacks")) == 1
    other = History(NAMES, CPU)
    other.load_state_dict(history.state_dict())
    assert other.missing == history.missing
    record(other, 2500, 2600)
    assert other.missing == history.missing


def test_a_gap_between_two_copies_is_seen(said):
    history = History(NAMES, CPU)
    record(history, 0, 300)  # a copy has been started
    replay(history, 300, 900)
    record(history, 900, 1500)
    steps = history.arrays()["step"].tolist()
    assert history.missing == 1500 - len(steps) > 0
    check(history.arrays(), steps)


def test_replays_lose_nothing_where_they_are_collected(said):
    history = History(NAMES, CPU)
    for first in range(0, 3000, 500):
        replay(history, first, first + 500)
        history.collect()
    check(history.arrays(), list(range(3000)))
    assert history.missing == 0 and not said("")


def test_no_copy_falls_into_a_graph_that_is_captured(monkeypatch):
    history = History(NAMES, CPU)
    record(history, 0, 256)
    monkeypatch.setattr(history_module, "is_capturing", lambda device: True)
    history.expect()
    assert history._copy is None
    monkeypatch.undo()
    history.expect()
    assert history._copy is not None


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


@pytest.mark.parametrize("wrong", [0, -1, True, 2.5, None, ""])
def test_a_wrong_option_is_refused_at_once(wrong):
    with pytest.raises(LayerSelectError, match="history="):
        FastSelector(plain(), history=wrong)


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


def test_the_picture_tells_selected_from_trained():
    history = History(NAMES, CPU, keep=4)
    record(history, 0, 10)
    axes = history.plot()
    veil = axes.images[1].get_array()
    rows = history.arrays()
    idle = (rows["mask"] & ~rows["trained"]).T
    assert idle.any() and not idle.all()
    red = (veil[..., 0] > veil[..., 1]) & (veil[..., 3] > 0)
    assert (red == idle).all()
    assert (veil[..., 3][(rows["mask"] & rows["trained"]).T] == 0).all()
    assert axes.xaxis.get_major_formatter()(0, 0) == "6"
    assert axes.xaxis.get_major_formatter()(7, 0) == ""
    assert "no gradient" in axes.get_title()
