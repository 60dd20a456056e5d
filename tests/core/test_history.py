"""The history in memory: it is bounded, is saved and resumed, and knows which steps it lacks."""

from __future__ import annotations

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.core import history as history_module
from layerselect.core.history import History

from tests.core.recorded import CPU, NAMES, RING, check, record, replay, row
from tests.helpers.models import plain


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


@pytest.mark.parametrize("wrong", [0, -1, True, 2.5, None, ""])
def test_a_wrong_option_is_refused_at_once(wrong):
    with pytest.raises(LayerSelectError, match="history="):
        FastSelector(plain(), history=wrong)


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
