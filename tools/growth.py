"""The command ``make growth``: selectors that come and go, and long trainings, in which nothing may grow.

    python -m tools.growth [--cycles 1000] [--steps 10000] [--trainers 50] [--only gate]

A case is run to a first point, where whatever is filled once is full, and on to a last one. At both, after a collection
of garbage, these are counted: tensors that are alive, objects, hooks on the model, bytes that Python holds, the memory
of the process, and the bytes of ``selector.state_dict()`` as ``torch.save`` writes it. Exit status 1: something grew.

What fills is the history: the last 10,000 steps, in memory as in saved states (``FastSelector(history=)``; most cases
ask for 100). Where it has a file, that alone grows, by one row each step.
"""

from __future__ import annotations

import argparse
import gc
import io
import logging
import os
import sys
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from layerselect import FastSelector
from layerselect.integrations.transformers import SelectorCallback
from tests.helpers.models import hugging_face, with_lora
from tests.integrations.interrupted import hooks_on
from tests.integrations.trainers import arguments, dataset
from torch import nn
from transformers import Trainer

from .fuzz.trained import Stack

logger = logging.getLogger("growth")

#: A case: its name, how often something happens, and what happens. It says which model is looked at, and which
#: selector is saved.
Happens = Callable[[], tuple[nn.Module, FastSelector | None]]
#: What may be added between two points, in all: blocks of the history have five tensors, Python keeps caches of its
#: own, numbers become longer, and the memory of the process comes in pieces.
ROOM = {
    "tensors": 30,
    "objects": 60,
    "bytes of Python": 96 << 10,
    "memory of the process": 16 << 20,
    "bytes of the state": 512,
}
#: Steps that most cases keep, and steps after which a history is full that nobody has bounded.
_HISTORY, _FULL = 100, 10_300


@dataclass(frozen=True)
class Case:
    """Something that happens many times.

    Attributes:
        name: what it is called.
        times: how often, after the first point.
        begin: makes what is needed, in a folder of its own, and gives what happens each time.
        before: how often before the first point.
    """

    name: str
    times: int
    begin: Callable[[Path], Happens]
    before: int = 10


def count(model: nn.Module, selector: FastSelector | None) -> dict[str, int]:
    """What there is now."""
    gc.collect()
    objects = gc.get_objects()
    found = {
        "tensors": sum(isinstance(each, torch.Tensor) for each in objects),
        "objects": len(objects),
        "hooks": sum(hooks_on(model)[:2]),
        "bytes of Python": tracemalloc.get_traced_memory()[0],
        "memory of the process": _resident(),
    }
    del objects
    if selector is not None:
        saved = io.BytesIO()
        torch.save(selector.state_dict(), saved)
        found["bytes of the state"] = saved.tell()
    return found


def grown(first: dict[str, int], last: dict[str, int]) -> dict[str, int]:
    """What has become more than it may."""
    return {name: last[name] - first[name] for name in first if last[name] - first[name] > ROOM.get(name, 0)}


def run_case(case: Case) -> tuple[dict[str, int], dict[str, int]]:
    """Lets it happen as often as it is to; what there was at the first point and at the last one."""
    started = not tracemalloc.is_tracing()
    if started:
        tracemalloc.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            happens = case.begin(Path(folder))
            first: dict[str, int] = {}
            for number in range(1, case.before + case.times + 1):
                made = happens()
                if number == case.before:
                    count(*made)  # what counting itself leaves is there at both points
                    first = count(*made)
            return first, count(*made)
    finally:
        if started:
            tracemalloc.stop()


def cases(cycles: int, steps: int, trainers: int) -> Iterator[Case]:
    """All of them."""
    for mode in ("observe", "gate", "freeze"):
        for capture in ("backward", "step"):
            options = {"mode": mode, "capture": capture}
            name = f"{mode}, {capture}"
            yield Case(f"{name}: attached and closed", cycles, lambda _, options=options: _cycles(options))
            yield Case(f"{name}: steps", steps, lambda _, options=options: _steps(options | {"history": _HISTORY}), 120)
    yield Case("gate, history as it is: steps", steps, lambda _: _steps({}), _FULL)
    yield Case("gate, history in a file: steps", steps, lambda folder: _steps({"history": folder / "rows"}), _FULL)
    for rule in ("cosine", "lisa:n=1;interval=3", "probe-once:steps=5", "cost-aware:budget=0.6"):
        yield Case(f"gate, {rule}: attached and closed", cycles, lambda _, rule=rule: _cycles({"rule": rule}))
        options = {"rule": rule, "history": _HISTORY}
        yield Case(f"gate, {rule}: steps", steps, lambda _, options=options: _steps(options), 120)
    cached = {"mode": "freeze", "state_cache": "cached", "cut": 2, "history": _HISTORY}
    yield Case("cache of hidden states: attached and closed", cycles // 4, lambda _: _cycles(cached, _Language), 3)
    yield Case("cache of hidden states: steps", steps // 4, lambda _: _steps(cached, _Language), 120)
    for mode in ("gate", "freeze"):
        yield Case(f"{mode}: Trainers with a callback", trainers, lambda folder, mode=mode: _trainers(folder, mode), 3)


class _Plain:
    """A model without a library around it."""

    def __init__(self) -> None:
        self.model: nn.Module = Stack()

    def loss(self) -> torch.Tensor:
        return self.model(torch.ones(3, 4)).square().sum()


class _Language(_Plain):
    """A tiny language model, which sees four batches again and again."""

    def __init__(self) -> None:
        self.model = with_lora(hugging_face("llama")).eval()
        self._batches = [torch.stack([row["input_ids"] for row in dataset()[n : n + 2]]) for n in range(0, 8, 2)]
        self._number = 0

    def loss(self) -> torch.Tensor:
        self._number = (self._number + 1) % len(self._batches)
        tokens = self._batches[self._number]
        loss: torch.Tensor = self.model(input_ids=tokens, labels=tokens).loss
        return loss


def _attached(model: nn.Module, options: dict[str, Any]) -> tuple[FastSelector, torch.optim.Optimizer]:
    selector = FastSelector(model, **{"mode": "gate", **options})
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-4)
    selector.attach(optimizer)
    return selector, optimizer


def _step(kind: _Plain, selector: FastSelector, optimizer: torch.optim.Optimizer) -> None:
    kind.loss().backward()
    selector.step()
    optimizer.step()
    optimizer.zero_grad()


def _cycles(options: dict[str, Any], kind: type[_Plain] = _Plain) -> Happens:
    """One model, and a selector and an optimizer of its own each time."""
    made = kind()

    def happens() -> tuple[nn.Module, None]:
        selector, optimizer = _attached(made.model, options)
        for _ in range(2):
            _step(made, selector, optimizer)
        selector.close()
        return made.model, None

    return happens


def _steps(options: dict[str, Any], kind: type[_Plain] = _Plain) -> Happens:
    """One selector, and a step each time."""
    made = kind()
    selector, optimizer = _attached(made.model, options)

    def happens() -> tuple[nn.Module, FastSelector]:
        _step(made, selector, optimizer)
        return made.model, selector

    return happens


def _trainers(folder: Path, mode: str) -> Happens:
    """One model, and a Trainer of its own each time."""
    model, data = with_lora(hugging_face("llama")), dataset(8)
    settings = arguments(folder, max_steps=2, save_strategy="no", logging_steps=10)

    def happens() -> tuple[nn.Module, None]:
        callback = SelectorCallback(rule="topk:k=2", mode=mode)
        Trainer(model, settings, train_dataset=data, callbacks=[callback]).train()
        return model, None

    return happens


def _resident() -> int:
    """The memory of the process, in bytes; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.growth", description="Looks for whatever grows.")
    parser.add_argument("--cycles", type=int, default=1000, help="selectors, one after another (default: 1000)")
    parser.add_argument("--steps", type=int, default=10_000, help="of one selector (default: 10000)")
    parser.add_argument("--trainers", type=int, default=50, help="one after another (default: 50)")
    parser.add_argument("--only", default="", help="cases whose names hold this")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.ERROR, format="%(message)s", stream=sys.stdout)
    logger.setLevel(logging.INFO)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    chosen = [case for case in cases(args.cycles, args.steps, args.trainers) if args.only in case.name]
    wrong = 0
    for case in chosen:
        first, last = run_case(case)
        found = grown(first, last)
        wrong += bool(found)
        numbers = ", ".join(f"{name} {first[name]:,} -> {last[name]:,}" for name in first)
        logger.info("%s%s, %d times: %s", f"GREW ({found}) " if found else "", case.name, case.times, numbers)
    logger.info("growth: %d cases, %d in which something grew", len(chosen), wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
