"""Runs the runs of a comparison, several at a time, and collects what came of them."""

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
from ...utils.claims import Claim
from ...utils.folders import partial_folder
from ...utils.places import output_path
from ...utils.saved_files import DamagedFile, read_json
from ...utils.saved_schema import Fields, Mapped
from ...utils.saved_words import in_words
from .config import CompareConfig
from .methods import Run
from .runs import RunResult, is_finished, read_run, train_run

logger = logging.getLogger(__name__)

STATE = "compare.json"
RUNS = "runs"
_STATE_VERSION = 1

OnEvent = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Comparison:
    """All runs of a comparison, in the order of its rows, seeds within."""

    config: CompareConfig
    folder: Path
    results: list[RunResult]

    @property
    def failed(self) -> list[RunResult]:
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
    """Trains every run that is not finished in ``config.out`` and reads all of them.

    A run that fails leaves a reason in the comparison and a log in ``runs/NAME.log``; it is tried again next time.
    Seeds stand in the outer loop, so that what else the machine does weighs on all methods alike.

    Args:
        overwrite: drop what an earlier comparison with other settings left in ``config.out``.
        on_event: told ``("run", {"name", "state", "reason", "seconds", "done", "runs"})`` when a run starts and ends,
            and ``("note", {"name", "text"})`` of what a run wants to be shown meanwhile.

    Raises:
        LayerSelectError: ``config.out`` holds something else, or a comparison with other settings.
    """
    notify = on_event or (lambda kind, record: None)
    folder = output_path(
        config.out, apart={"--data": config.base.get("data")}, kept={"--model": config.base.get("model")}
    )
    claim = Claim(folder)
    try:
        _open(folder, config, overwrite)
        return _compared(config, folder, notify)
    finally:
        claim.release()


def plan_compare(config: CompareConfig, *, overwrite: bool = False) -> dict[str, Any]:
    """What :func:`run_compare` would do; nothing is written, nothing trained.

    Returns:
        ``out``, ``splits`` (examples of each), and ``runs``: the name of each, and whether it is ``finished``.

    Raises:
        LayerSelectError: as :func:`run_compare`, or the corpus cannot be read.
    """
    folder = output_path(
        config.out, apart={"--data": config.base.get("data")}, kept={"--model": config.base.get("model")}
    )
    _check_place(folder, config, overwrite)
    runs = [*config.predictor_runs(), *config.runs()]
    corpus = config.settings(config.runs()[0], config.out).load_corpus()
    return {
        "out": str(folder),
        "splits": {name: len(rows) for name, rows in corpus.splits.items()},
        "runs": [
            {"name": run.name, "finished": not overwrite and is_finished(folder / RUNS / run.name)} for run in runs
        ],
    }


def _compared(config: CompareConfig, folder: Path, notify: OnEvent) -> Comparison:
    """What :func:`run_compare` does once its folder is its own."""
    predictors, runs = config.predictor_runs(), config.runs()
    with _Workshop(config, folder, notify, len(predictors) + len(runs)) as workshop:
        # First what others start from.
        lost = workshop.train(
            {run: ("intent", config.predictor_settings(run, _place(folder, run)).as_dict()) for run in predictors}
        )
        tasks, reasons = {}, {}
        for run in runs:
            source = config.predictor_of(run)
            if source in lost:
                reasons[run] = f"its predictor failed: {lost[source]}"
            else:
                own = config.settings(run, _place(folder, run), _place(folder, source) if source else None)
                tasks[run] = (config.task, own.as_dict())
        reasons |= workshop.train(tasks)
    results = []
    for run in sorted(runs, key=lambda run: config.variants.index(run.variant)):
        reason = reasons.get(run)
        results.append(RunResult(run, reason=reason) if reason else read_run(run, folder / RUNS / run.name))
    return Comparison(config, folder, results)


def _place(folder: Path, run: Run) -> str:
    return str(folder / RUNS / run.name)


class _Workshop:
    """Trains runs, several at a time; what runs is stopped when it is left."""

    def __init__(self, config: CompareConfig, folder: Path, notify: OnEvent, runs: int) -> None:
        self._folder, self._notify, self._runs = folder, notify, runs
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

    def train(self, tasks: Mapping[Run, tuple[str, dict[str, Any]]]) -> dict[Run, str]:
        """Trains what is missing; returns the reasons of the runs that failed.

        Args:
            tasks: for each run, the task and its settings.
        """
        reasons: dict[Run, str] = {}
        futures: dict[Future, Run] = {}
        for run, (task, settings) in tasks.items():
            if is_finished(self._folder / RUNS / run.name):
                self._tell(run, "kept", done=1)
            else:
                futures[self._pool.submit(self._train_one, run, task, settings)] = run
        while futures:
            for future in wait(futures, return_when=FIRST_COMPLETED).done:
                run = futures.pop(future)
                reason, seconds = future.result()
                if reason is not None:
                    reasons[run] = reason
                self._tell(run, "finished" if reason is None else "failed", done=1, reason=reason, seconds=seconds)
        return reasons

    def _train_one(self, run: Run, task: str, settings: dict[str, Any]) -> tuple[str | None, float]:
        self._tell(run, "started")
        log = self._folder / RUNS / f"{run.name}.log"
        started = time.perf_counter()

        def tell(note: str) -> None:
            self._notify("note", {"name": run.name, "text": note})

        def tell_part(text: str) -> None:
            self._notify("part", {"name": run.name, "text": text})

        reason = train_run(task, settings, log, self._threads, self._running, tell, tell_part)
        return reason, time.perf_counter() - started

    def _tell(self, run: Run, state: str, *, done: int = 0, **more: Any) -> None:
        self._done += done
        self._notify("run", {"name": run.name, "state": state, "done": self._done, "runs": self._runs, **more})


def _check_place(folder: Path, config: CompareConfig, overwrite: bool) -> None:
    """Finds out whether the comparison may go there.

    Raises:
        LayerSelectError: something else is there, or a comparison with other settings.
    """
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


def _open(folder: Path, config: CompareConfig, overwrite: bool) -> None:
    """Makes the folder, or takes up the comparison in it."""
    _check_place(folder, config, overwrite)
    state = folder / STATE
    if overwrite:
        shutil.rmtree(folder / RUNS, ignore_errors=True)
    (folder / RUNS).mkdir(parents=True, exist_ok=True)
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
