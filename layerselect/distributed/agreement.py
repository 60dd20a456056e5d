"""Whether the processes that train together choose the same layers.

They do where all of them measure the averaged gradient. They drift apart in silence where a step was taken under
``no_sync()``, where nobody averages, where each has a stage of a pipeline, or where host-drawn rules have different
seeds.

The processes compare what they chose through the key-value store that the process group was set up with, and not by a
collective: nobody knows that all of them step this selector, or as often, and a collective that some of them start
never ends, or takes the place of another one. A process writes what it has and looks later for what the others wrote;
it waits for none, and a device is asked for nothing that it has not finished. What nobody answers is forgotten.
"""

from __future__ import annotations

import json
import logging
import uuid
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LayerSelectError
from ..utils.mirror import Arrival
from .engines import together

logger = logging.getLogger(__name__)

#: Steps whose selections are compared: this one and, before the first of every so many, its powers, since what is wrong
#: is mostly wrong from the start. Names are compared in the first.
_EARLY, _EVERY = 2, 100
#: Steps from the one in which it is found that processes disagree to the one in which all of them raise. By then all
#: know of it, and none waits in a collective for one that has gone.
_NOTICE = 5
#: In how many of the following steps a process looks for an answer before it leaves that for the next comparison.
_LOOKS = 50
#: What replaces the token of a comparing process that has gone. The key stays: one that another process has
#: just found there must not be gone when it is read, since the store would wait for it.
_GONE = "gone"


class Agreement:
    """Compares, in the 2nd, 4th, 8th to 64th step and in every 100th, the names of the layers and the selection with
    those of the other processes.

    The first of the processes that train together compares, and the others read its answer.

    Args:
        model: the selector's; its engine says which processes train it together. Without one these are all.
        names: of the layers.
        shapes: of the parameters of each layer.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], shapes: Sequence[Sequence[Sequence[int]]]) -> None:
        self._model = weakref.ref(model)
        self._names = list(names)
        self._shapes = [str([list(shape) for shape in layer]) for layer in shapes]
        self._steps = 0
        self._exchange: _Exchange | None = None
        self._copy: _Copy | None = None
        self._bad: tuple[int, str] | None = None
        self._heard = 0  # steps since it was found that the processes disagree

    def compare(self, mask: Tensor) -> None:
        """To be called at the end of each step of the selector, with its selection: bool [L], on any device.

        Raises:
            LayerSelectError: the processes disagree. All raise it, with the same sentence.
        """
        if mask.is_cuda and torch.cuda.is_current_stream_capturing():
            return
        self._steps += 1
        early = self._steps < _EVERY and self._steps >= _EARLY and self._steps.bit_count() == 1
        due = early or self._steps % _EVERY == 0
        if (due or self._steps == 1) and self._exchange is None:
            # In the first step, so that the others know of it in the second.
            self._exchange = _Exchange.begin(self._model(), self._names)
        if self._exchange is None:
            return
        try:
            self._go_on(mask if due else None)
        except torch.distributed.DistError as problem:  # the process that keeps the store has gone
            logger.info("the processes no longer compare their selections: %s", problem)
            self.close()
        if self._bad is not None:
            self._heard += 1
            if self._steps >= self._bad[0] or self._heard > _NOTICE:
                raise LayerSelectError(self._bad[1])

    def close(self) -> None:
        """Takes no part any more."""
        if self._exchange is not None:
            self._exchange.close()
        self._exchange, self._copy = None, None

    def _go_on(self, mask: Tensor | None) -> None:
        assert self._exchange is not None
        if mask is not None:
            self._copy = _Copy(mask, self._steps)
        if self._copy is not None and self._copy.has_arrived():
            layers = {"names": self._names, "shapes": self._shapes} if self._copy.step == _EARLY else {}
            self._exchange.report(self._copy.step, {**layers, "mask": self._copy.values()})
            self._copy = None
        found = self._exchange.look(self._steps, anew=mask is not None)
        self._bad = self._bad or found


class _Copy:
    """A selection on its way to the host."""

    def __init__(self, mask: Tensor, step: int) -> None:
        self.step = step
        self._arrival = Arrival(mask.device) if mask.is_cuda else None
        self._values = torch.empty_like(mask, device="cpu", pin_memory=mask.is_cuda).copy_(mask, non_blocking=True)
        if self._arrival is not None:
            self._arrival.mark(mask.device)

    def has_arrived(self) -> bool:
        return self._arrival is None or self._arrival.is_there()

    def values(self) -> list[int]:
        return self._values.int().tolist()


@dataclass(frozen=True)
class _Report:
    """What a process reports about a step: its selection, and once the names and shapes of its layers."""

    rank: int
    values: dict[str, Any]


class _Exchange:
    """What one process reports about one selector, and what it is answered.

    Each selector of a process has a slot, the lowest that is free, so that the selectors of all processes are paired.
    Each has a token, too, so that what an earlier selector left in the slot is not read.
    """

    def __init__(self, store: Any, rank: int, ranks: Sequence[int], names: Sequence[str]) -> None:
        self._store, self._names = store, names
        self._rank, self._ranks = rank, list(ranks)
        self._token = uuid.uuid4().hex
        self._slots = f"layerselect/{rank}/"
        self._slot = next(slot for slot in range(1 << 20) if self._take(slot))
        self._place = f"layerselect/{ranks[0]}-{len(ranks)}-{ranks[-1]}/{self._slot}"
        self._free = weakref.finalize(
            self, _leave, store, f"{self._slots}{self._slot}", f"{self._place}/first" if self.compares else None
        )
        self._open: dict[int, int] = {}  # looks left, by step
        self._reports: dict[int, dict[str, Any]] = {}
        self._missed = False
        if self.compares:
            store.set(f"{self._place}/first", self._token)

    @classmethod
    def begin(cls, model: nn.Module | None, names: Sequence[str]) -> _Exchange | None:
        """None where a process is alone."""
        distributed = torch.distributed
        if model is None or not (distributed.is_available() and distributed.is_initialized()):
            return None
        rank, ranks = distributed.get_rank(), together(model)
        if rank not in ranks or len(ranks) < 2:
            return None
        return cls(distributed.distributed_c10d._get_default_store(), rank, ranks, names)

    @property
    def compares(self) -> bool:
        return self._rank == self._ranks[0]

    def close(self) -> None:
        self._free()

    def report(self, step: int, values: dict[str, Any]) -> None:
        """Notes what this process has in ``step``, to be sent when the others can read it."""
        self._open[step], self._reports[step] = _LOOKS, values

    def look(self, now: int, *, anew: bool) -> tuple[int, str] | None:
        """The step in which all raise, and what is wrong; ``None`` if nothing is, or if it is not known yet."""
        for step in list(self._open):
            if self._open[step] or anew:
                self._open[step] = max(0, self._open[step] - 1)
                found = self._compare_all(step, now) if self.compares else self._read_answer(step)
                if found is not None:
                    return found
        return None

    def _compare_all(self, step: int, now: int) -> tuple[int, str] | None:
        others = [rank for rank in self._ranks if rank != self._rank]
        keys = [self._key(self._token, step, rank) for rank in others]
        if not self._store.check(keys):
            self._note_missing(step, others)
            return None
        del self._open[step]
        mine = _Report(self._rank, self._reports.pop(step))
        reports = [_Report(rank, json.loads(self._store.get(key))) for rank, key in zip(others, keys, strict=True)]
        problems = [problem for one in reports if (problem := _difference(step, self._names, mine, one)) is not None]
        answer: dict[str, Any] = {"to": [one.values["token"] for one in reports]}
        if problems:
            answer |= {"at": now + _NOTICE, "text": problems[0]}
        self._store.set(self._key(self._token, step), json.dumps(answer))
        return (answer["at"], answer["text"]) if problems else None

    def _read_answer(self, step: int) -> tuple[int, str] | None:
        if not self._store.check([f"{self._place}/first"]):
            return None
        first = self._store.get(f"{self._place}/first").decode()
        if first == _GONE:
            return None
        if self._reports[step].get("to") != first:  # not sent yet, or sent to another one
            self._reports[step] |= {"token": self._token, "to": first}
            self._store.set(self._key(first, step, self._rank), json.dumps(self._reports[step]))
        if not self._store.check([self._key(first, step)]):
            return None
        answer = json.loads(self._store.get(self._key(first, step)))
        if self._token not in answer["to"]:
            return None
        del self._open[step], self._reports[step]
        return (answer["at"], answer["text"]) if "text" in answer else None

    def _key(self, first: str, step: int, rank: int | str = "answer") -> str:
        """Where a process reports to the one with the token ``first``, or reads its answer."""
        return f"{self._place}/{first}/{step}/{rank}"

    def _note_missing(self, step: int, others: Sequence[int]) -> None:
        """Warns once of a process that has such a selector and whose report is missing."""
        if self._open[step] or self._missed:
            return
        here = [rank for rank in others if self._store.add(f"layerselect/{rank}/{self._slot}", 0) > 0]
        late = [rank for rank in here if not self._store.check([self._key(self._token, step, rank)])]
        if late:
            self._missed = True
            logger.warning(
                "process %d closed %d steps of the selector since its step %d and process %d has not come that far: "
                "call selector.step() in every process in every step, or the selections of different steps are mixed",
                self._rank,
                _LOOKS,
                step,
                late[0],
            )

    def _take(self, slot: int) -> bool:
        if self._store.add(f"{self._slots}{slot}", 1) == 1:
            return True
        self._store.add(f"{self._slots}{slot}", -1)
        return False


def _leave(store: Any, slot: str, first: str | None) -> None:
    try:
        if first is not None:
            store.set(first, _GONE)
        store.add(slot, -1)
    except torch.distributed.DistError as problem:
        logger.debug("%s", problem)


def _difference(step: int, names: Sequence[str], one: _Report, other: _Report) -> str | None:
    """What two processes do not agree in; None if they agree."""
    if "names" in other.values:
        for index, (mine, theirs) in enumerate(zip_longest(one.values["names"], other.values["names"])):
            if mine != theirs:
                return (
                    f"the processes do not hold the same layers (process {other.rank} has {theirs!r} as its layer "
                    f"{index}, process {one.rank} has {mine!r}), as with stages of a pipeline, so no selection over "
                    "all layers can be made: give the selector a model that every process holds whole, under "
                    "DistributedDataParallel or fully_shard"
                )
        for name, mine, theirs in zip(names, one.values["shapes"], other.values["shapes"], strict=True):
            if mine != theirs:
                return (
                    f"process {other.rank} trains other parameters in layer {name!r} than process {one.rank} (shapes "
                    f"{theirs} and {mine}): build the model and its adapters alike in every process"
                )
    for name, mine, theirs in zip(names, one.values["mask"], other.values["mask"], strict=True):
        if mine != theirs:
            return (
                f"process {other.rank} and process {one.rank} do not choose the same layers: in step {step} of the "
                f"selector {'only process ' + str(other.rank if theirs else one.rank)} chose {name!r}, so their "
                "models drift apart; call selector.step() in every process, when the gradients are averaged (under "
                "DistributedDataParallel or fully_shard, not after no_sync()), with the same rule and seed"
            )
    return None
