"""Runs the cells of a comparison, several at a time, and collects what came of them."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import LayerSelectError
from ...utils.folders import Claim, output_path, partial_folder
from ...utils.saved_files import DamagedFile, read_json
from ...utils.saved_schema import Fields, Mapped
from ...utils.saved_words import in_words
from .config import CompareConfig
from .methods import Variant
from .runs import Cell, CellResult, is_finished, read_cell, train_cell

logger = logging.getLogger(__name__)

STATE = "compare.json"
CELLS = "cells"
_STATE_VERSION = 1

OnEvent = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Comparison:
    """All cells of a comparison, in the order of its rows, seeds within."""

    config: CompareConfig
    folder: Path
    results: list[CellResult]

    @property
    def failed(self) -> list[CellResult]:
        return [result for result in self.results if result.reason is not None]

    @property
    def split(self) -> str:
        """The reported split."""
        names = next((list(result.reports) for result in self.results if result.reports), [])
        if self.config.split is not None:
            if names and self.config.split not in names:
                raise LayerSelectError(f"--split {self.config.split}: the corpus has {', '.join(names)}")
            return self.config.split
        return next((name for name in ("test", "validation", "holdout") if name in names), "test")


def run_compare(config: CompareConfig, *, overwrite: bool = False, on_event: OnEvent | None = None) -> Comparison:
    """Trains every cell that is not finished in ``config.out`` and reads all of them.

    A cell that fails leaves a reason in the comparison and a log in ``cells/NAME.log``; it is tried again next time. Seeds stand
    in the outer loop, so that what else the machine does weighs on all methods alike.

    Args:
        overwrite: drop what an earlier comparison with other settings left in ``config.out``.
        on_event: told ``("cell", {"name", "state", "reason", "seconds", "done", "cells"})`` when a cell starts and ends, and
            ``("note", {"name", "text"})`` of what a cell wants to be shown meanwhile.

    Raises:
        LayerSelectError: ``config.out`` holds something else, or a comparison with other settings.
    """
    notify = on_event or (lambda kind, record: None)
    folder = output_path(config.out)
    claim = Claim(folder)
    try:
        _open(folder, config, overwrite)
        return _compared(config, folder, notify)
    finally:
        claim.release()


def _compared(config: CompareConfig, folder: Path, notify: OnEvent) -> Comparison:
    """What :func:`run_compare` does once its folder is its own."""
    seeds = range(config.seeds)
    predictors = [Cell(variant, seed) for seed in seeds for variant in config.predictors()]
    cells = [Cell(variant, seed) for seed in seeds for variant in config.variants]
    with _Workshop(config, folder, notify, len(predictors) + len(cells)) as workshop:
        # First what others start from.
        lost = workshop.train({cell: ("intent", _predictor_settings(config, folder, cell)) for cell in predictors})
        tasks, reasons = {}, {}
        for cell in cells:
            source = Cell(_predictor_of(config, cell), cell.seed) if cell.variant.method.transfers else None
            if source in lost:
                reasons[cell] = f"its predictor failed: {lost[source]}"
            else:
                place = str(folder / CELLS / source.name) if source else None
                own = config.settings(cell.variant, cell.seed, str(folder / CELLS / cell.name), place)
                tasks[cell] = (config.task, own.as_dict())
        reasons |= workshop.train(tasks)
    results = []
    for variant in config.variants:
        for seed in seeds:
            cell = Cell(variant, seed)
            reason = reasons.get(cell)
            results.append(CellResult(cell, reason=reason) if reason else read_cell(cell, folder / CELLS / cell.name))
    return Comparison(config, folder, results)


def _predictor_of(config: CompareConfig, cell: Cell) -> Variant:
    return next(each for each in config.predictors() if each.adapter == cell.variant.adapter)


def _predictor_settings(config: CompareConfig, folder: Path, cell: Cell) -> dict[str, Any]:
    return config.predictor_settings(cell.variant, cell.seed, str(folder / CELLS / cell.name)).as_dict()


class _Workshop:
    """Trains cells, several at a time; what runs is stopped when it is left."""

    def __init__(self, config: CompareConfig, folder: Path, notify: OnEvent, cells: int) -> None:
        self._folder, self._notify, self._cells = folder, notify, cells
        self._threads = config.threads or max(1, _cores() // config.jobs)
        self._pool = ThreadPoolExecutor(config.jobs)
        self._running: set[subprocess.Popen] = set()
        self._done = 0

    def __enter__(self) -> _Workshop:
        return self

    def __exit__(self, *exc_info: object) -> None:
        # After an interruption nothing new starts, and what runs is stopped; it is resumed next time.
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in list(self._running):
            process.terminate()
        self._pool.shutdown(wait=True)

    def train(self, tasks: Mapping[Cell, tuple[str, dict[str, Any]]]) -> dict[Cell, str]:
        """Trains what is missing; returns the reasons of the cells that failed.

        Args:
            tasks: for each cell, the task and its settings.
        """
        reasons: dict[Cell, str] = {}
        futures: dict[Future, Cell] = {}
        for cell, (task, settings) in tasks.items():
            if is_finished(self._folder / CELLS / cell.name):
                self._tell(cell, "kept", done=1)
            else:
                futures[self._pool.submit(self._train_one, cell, task, settings)] = cell
        while futures:
            for future in wait(futures, return_when=FIRST_COMPLETED).done:
                cell = futures.pop(future)
                reason, seconds = future.result()
                if reason is not None:
                    reasons[cell] = reason
                self._tell(cell, "finished" if reason is None else "failed", done=1, reason=reason, seconds=seconds)
        return reasons

    def _train_one(self, cell: Cell, task: str, settings: dict[str, Any]) -> tuple[str | None, float]:
        self._tell(cell, "started")
        log = self._folder / CELLS / f"{cell.name}.log"
        started = time.perf_counter()

        def tell(note: str) -> None:
            self._notify("note", {"name": cell.name, "text": note})

        reason = train_cell(task, settings, log, self._threads, self._running, tell)
        return reason, time.perf_counter() - started

    def _tell(self, cell: Cell, state: str, *, done: int = 0, **more: Any) -> None:
        self._done += done
        self._notify("cell", {"name": cell.name, "state": state, "done": self._done, "cells": self._cells, **more})


def _open(folder: Path, config: CompareConfig, overwrite: bool) -> None:
    """Makes the folder, or takes up the comparison in it."""
    state = folder / STATE
    if folder.exists() and not folder.is_dir():
        raise LayerSelectError(f"--out {str(folder)!r} is a file: choose another place")
    if folder.is_dir() and any(folder.iterdir()):
        saved = _saved(state)
        if saved is None:
            raise LayerSelectError(
                f"--out {str(folder)!r} is a folder that no comparison of layerselect made: choose another place"
            )
        changed = sorted(k for k in {*saved, *config.fixed()} if saved.get(k) != config.fixed().get(k))
        if changed and not overwrite:
            name = changed[0]
            raise LayerSelectError(
                f"the comparison in {str(folder)!r} has --{name.replace('_', '-')} {in_words(saved.get(name))}, not "
                f"{config.fixed().get(name)}: repeat its options to continue it, or start afresh with --overwrite"
            )
        if overwrite:
            shutil.rmtree(folder / CELLS, ignore_errors=True)
    (folder / CELLS).mkdir(parents=True, exist_ok=True)
    aside = partial_folder(state)
    aside.write_text(json.dumps({"version": _STATE_VERSION, "settings": config.fixed()}, indent=1) + "\n", "utf-8")
    aside.replace(state)


def _saved(state: Path) -> dict[str, Any] | None:
    try:
        return read_json(state, Fields({"settings": Mapped()}), advice="remove it", constants=True)["settings"]
    except DamagedFile:
        return None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
