"""Values on their way to the host: which stream is waited for. Stand-ins take the place of CUDA."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from layerselect import LayerSelectError
from layerselect.core.history import History
from layerselect.utils.mirror import Arrival, Mirror

ROOT = Path(__file__).parents[2] / "layerselect"


class OnDevice(torch.Tensor):
    """A CPU tensor that says it is on the third GPU."""

    is_cuda = True
    device = torch.device("cuda:2")


@pytest.fixture
def marks(monkeypatch):
    """What the events record: the current device is the first, streams are named after the device that was asked
    for.
    """
    seen: list[str] = []

    class Event:
        def record(self, stream: str = "stream of the current device") -> None:
            seen.append(stream)

        def synchronize(self) -> None:
            seen.append("waited")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: f"stream of {device}")
    for name in ("zeros", "empty_like"):
        made = getattr(torch, name)

        def unpinned(*args, made=made, pin_memory=False, **options):
            return made(*args, **options)

        monkeypatch.setattr(torch, name, unpinned)
    return seen


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_a_mirror_waits_for_the_stream_that_copies(marks, lag):
    mirror = Mirror(3, lag, torch.device("cuda:1"))
    for _ in range(4):
        mirror.push(torch.ones(3, dtype=torch.bool))
    assert marks == ["stream of cuda:1"] * 4
    assert mirror.read() == [True] * 3
    assert marks[4:] == ["waited"]
    mirror.state_dict()
    assert marks[5:] == ["waited"] * (lag + 1)


def test_the_device_is_that_of_the_vector(marks):
    mirror = Mirror(3, 0, torch.device("cuda:1"))
    mirror.push(torch.ones(3, dtype=torch.bool).as_subclass(OnDevice))
    assert marks == ["stream of cuda:2"]


def test_an_event_is_never_recorded_on_a_second_device(monkeypatch):
    made = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: device)

    class Event:
        def __init__(self) -> None:
            self.devices: set[str] = set()
            made.append(self)

        def record(self, stream) -> None:
            self.devices.add(str(stream))

    monkeypatch.setattr(torch.cuda, "Event", Event)
    arrival = Arrival(torch.device("cuda:0"))
    for device in ("cuda:0", "cuda:1", "cuda:1", "cuda:0"):
        arrival.mark(torch.device(device))
    assert [event.devices for event in made] == [{"cuda:0"}, {"cuda:1"}, {"cuda:0"}]


def test_a_history_waits_for_the_stream_that_copies(marks, monkeypatch):
    history = History(["a"], torch.device("cpu"))
    ring = {name: column.as_subclass(OnDevice) for name, column in history._ring.items()}
    monkeypatch.setattr(history, "_ring", ring)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    for _ in range(len(ring["step"])):
        history.expect()
    assert marks == ["stream of cuda:2"]


def test_no_event_is_recorded_on_whatever_device_is_current():
    """``event.record()`` without a stream says nothing of a copy from another device."""
    for path in ROOT.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = {
            id(node)
            for block in ast.walk(tree)
            if isinstance(block, ast.With) and "torch.cuda.device(" in ast.unparse(block.items[0])
            for node in ast.walk(block)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and id(node) not in inside:
                bare = not node.args and not node.keywords
                named = (node.func.attr == "record" or node.func.attr == "current_stream") and bare
                assert not named, f"{path.name}:{node.lineno}: {ast.unparse(node)}"


def test_a_mirror_is_late_by_its_lag():
    mirror = Mirror(2, 1, torch.device("cpu"))
    mirror.push(torch.tensor([True, False]))
    assert mirror.read() is None
    mirror.push(torch.tensor([False, False]))
    assert mirror.read() == [True, False]
    with pytest.raises(LayerSelectError, match="lag=-1"):
        Mirror(2, -1, torch.device("cpu"))
