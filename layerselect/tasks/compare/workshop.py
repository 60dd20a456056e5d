"""Trains the runs of a comparison, several at a time, and keeps what tables are made of."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from ...data import Corpus
from ...errors import LayerSelectError
from ...utils.saved_files import DamagedFile
from ...utils.saved_schema import Mismatch
from .config import PREDICTOR, CompareConfig
from .kept import PROCESSES, KeptRuns
from .launching import Means, find_launcher, launcher_words, stop
from .methods import Run
from .runs import RUNS, is_finished, read_run, train_run

OnEvent = Callable[[str, dict[str, Any]], None]


class Keeper:
    """Keeps what tables are made of, of each run that is finished."""

    def __init__(self, config: CompareConfig, folder: Path) -> None:
        self._config, self._folder, self._kept = config, folder, KeptRuns(folder, config.kind)
        self._corpora: dict[int | None, Corpus] = {}
        self._counts: dict[str, int | None] = {}  # processes of kept runs, whose files do not change

    def is_there(self, run: Run) -> bool:
        """Whether a run is kept, or its folder complete."""
        return self._kept.has(run) or is_finished(self._folder / RUNS / run.name)

    def is_finished(self, run: Run) -> bool:
        """Whether nothing is left to train; a run whose folder is complete is kept now."""
        if run.variant.method.name == PREDICTOR:
            return self.is_there(run)
        return self._kept.has(run) or (self.is_there(run) and self(run) is None)

    def check_processes(self) -> None:
        """Finds out whether the missing runs can be trained as the finished ones were.

        Raises:
            LayerSelectError: those had a launcher and these have none, or the other way round.
        """
        counts = self._processes()
        if self._config.launcher is None and max(counts, default=1) > 1:
            raise LayerSelectError(
                f"the finished runs in {self._config.out!r} were trained in {max(counts)} processes: give their "
                "--launcher again, or choose another --out"
            )
        if self._config.launcher is not None and 1 in counts:
            raise LayerSelectError(
                f"the finished runs in {self._config.out!r} were trained in one process, which makes other steps: "
                "leave out --launcher, or choose another --out"
            )

    def _processes(self) -> set[int]:
        """In how many processes the kept runs were trained."""
        for run in self._config.runs():
            if run.name not in self._counts and self._kept.has(run):
                self._counts[run.name] = self._kept.processes(run)
        return {count for count in self._counts.values() if count is not None}

    def __call__(self, run: Run) -> str | None:
        """Keeps a run whose folder is complete; returns why it cannot be kept."""
        if run.variant.method.name == PREDICTOR:
            return None
        files = read_run(run, self._folder / RUNS / run.name)
        if files.reason is not None:
            return files.reason
        count = files.training.get(PROCESSES, 1)
        if others := self._processes() - {count}:
            return (
                f"it was trained in {count} and other runs in {min(others)} processes, which makes other steps: start "
                "as many for each run"
            )
        settings = self._config.common_settings(run.fold)
        if run.fold not in self._corpora:
            self._corpora[run.fold] = settings.load_corpus()
        try:
            self._kept.keep(files, settings, self._corpora[run.fold])
        except (DamagedFile, Mismatch) as error:
            return " ".join(str(error).split())
        return None


class Workshop:
    """Trains runs, several at a time; what runs is stopped when it is left."""

    def __init__(self, config: CompareConfig, folder: Path, notify: OnEvent, keeper: Keeper, runs: int) -> None:
        self._folder, self._notify, self._keeper, self._runs = folder, notify, keeper, runs
        launcher = find_launcher(launcher_words(config.launcher))
        threads = config.threads if config.threads or launcher else max(1, _cores() // config.jobs)
        self._means = Means(threads, launcher)
        self._jobs, self._pool = config.jobs, ThreadPoolExecutor(config.jobs)
        self._running: set[subprocess.Popen[str]] = set()
        self._done = 0

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *exc_info: object) -> None:
        # After an interruption nothing new starts, and what runs is stopped; it is resumed next time.
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in list(self._running):
            stop(process)
        self._pool.shutdown(wait=True)

    def train(
        self, tasks: Mapping[Run, tuple[str, dict[str, Any]]], after: Mapping[Run, Run] | None = None
    ) -> dict[Run, str]:
        """Trains what is missing; returns the reasons of the runs that failed.

        Args:
            tasks: for each run, the task and its settings, in the order in which they begin.
            after: for some of them another one, from whose result they start. They wait for it alone; those behind
                them do not wait.
        """
        after, reasons = after or {}, {}
        futures: dict[Future[tuple[str | None, float]], Run] = {}
        waiting = []
        for run in tasks:
            if self._keeper.is_finished(run):
                self._tell(run, "kept", done=1)
            else:
                waiting.append(run)
        while waiting or futures:
            ready = [run for run in waiting if after.get(run) not in (*waiting, *futures.values())]
            for run in ready[: self._jobs - len(futures)]:
                waiting.remove(run)
                futures[self._pool.submit(self._train_one, run, *tasks[run])] = run
            ended = wait(futures, return_when=FIRST_COMPLETED).done
            # What is finished is kept before an interruption is passed on.
            for future in sorted(ended, key=lambda each: each.exception() is not None):
                run = futures.pop(future)
                reason, seconds = future.result()
                reason = self._keeper(run) if reason is None else reason
                self._tell(run, "finished" if reason is None else "failed", done=1, reason=reason, seconds=seconds)
                if reason is None:
                    continue
                reasons[run] = reason
                for lost in [each for each in waiting if after.get(each) == run]:
                    waiting.remove(lost)
                    reasons[lost] = f"its predictor failed: {reason}"
                    self._tell(lost, "failed", done=1, reason=reasons[lost])
        return reasons

    def try_run(self, run: Run, task: str, settings: dict[str, Any], log: Path) -> str | None:
        """Trains a run of a few steps, to see how long its steps are; returns why it failed."""
        self._notify("part", {"name": run.name, "text": "trying how long a step takes"})
        reason = train_run(task, settings, log, self._means, self._running, lambda note: None, lambda part: None)
        self._tell(run, "tried")
        return reason

    def _train_one(self, run: Run, task: str, settings: dict[str, Any]) -> tuple[str | None, float]:
        self._tell(run, "started")
        log = self._folder / RUNS / f"{run.name}.log"
        started = time.perf_counter()

        def tell(note: str) -> None:
            self._notify("note", {"name": run.name, "text": note})

        def tell_part(part: dict[str, Any]) -> None:
            self._notify("part", {"name": run.name, **part})

        reason = train_run(task, settings, log, self._means, self._running, tell, tell_part)
        return reason, time.perf_counter() - started

    def _tell(self, run: Run, state: str, *, done: int = 0, **more: Any) -> None:
        self._done += done
        self._notify("run", {"name": run.name, "state": state, "done": self._done, "runs": self._runs, **more})


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
