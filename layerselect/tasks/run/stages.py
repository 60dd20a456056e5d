"""Where the time of a run goes: its stages, one after the other, which add up to what a clock on the wall says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

#: Names of stages.
LOADING, PREDICTOR, TRAINING, EVALUATION, REVISING = "loading", "predictor", "training", "evaluation", "revising"
BASELINES, SCORING, WRITING = "baselines", "scoring", "writing"

OnEvent = Callable[[str, dict[str, Any]], None]


class Stages:
    """A stopwatch with one hand: what is going on now takes the time.

    Args:
        on_event: told of each stage that begins, as ``("stage", {"name"})``.
    """

    def __init__(self, on_event: OnEvent | None = None) -> None:
        self._on_event = on_event or (lambda kind, record: None)
        self._seconds: dict[str, float] = {}
        self._name, self._since = "", time.perf_counter()
        self._failed = ""

    @property
    def current(self) -> str:
        """What is going on; once an error has ended a stage inside of another one, that stage."""
        return self._failed or self._name

    def begin(self, name: str) -> None:
        """Ends the stage that is on and begins, or continues, another one."""
        self._note()
        self._name = name
        self._seconds.setdefault(name, 0.0)
        self._on_event("stage", {"name": name})

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        """Another stage inside of the one that is on, which goes on afterwards."""
        before = self._name
        self.begin(name)
        try:
            yield
        except BaseException:
            self._failed = self._failed or name
            raise
        finally:
            if before:
                self.begin(before)
            else:
                self._note()
                self._name = ""

    def seconds(self) -> dict[str, float]:
        """The seconds of each stage so far, in the order in which they began."""
        self._note()
        return {name: round(seconds, 3) for name, seconds in self._seconds.items()}

    def _note(self) -> None:
        now = time.perf_counter()
        if self._name:
            self._seconds[self._name] += now - self._since
        self._since = now
