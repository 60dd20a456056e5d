"""What a comparison keeps of its finished runs: predictions as numbers, qualities and costs, and no text.

The files are small enough to be committed, and every table is made of them. Of each run there is ``NAME.json``, whose
bytes are the same whenever the run is repeated, and ``NAME.costs.json``, which holds times; of each fold there are its
examples (``examples-foldN.json``) and the baselines (``baselines-foldN.json``; ``baselines-10pc-foldN.json`` where
rows learn from 10 % of the training split).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...data import Corpus
from ...utils.saved_files import DamagedFile, read_json
from ...utils.saved_schema import (
    Anything,
    Both,
    Fields,
    Items,
    Kind,
    Mapped,
    Maybe,
    Mismatch,
    Number,
    Text,
    Whole,
)
from ..run.settings import TrainingSettings
from .counts import Truth
from .examples import ADVICE, KeptExamples, path_of_fold, write_kept
from .methods import Run, as_file_name
from .runs import RunFiles
from .tasks import MODEL, TASKS, Task

KEPT = "kept"
TEST = "test"
DEVICE = "device"
#: Seconds by the clock from the beginning of a run to its end.
WALL = "wall_seconds"
#: In how many processes a run was trained; left out where it was one.
PROCESSES = "processes"

_QUALITIES = Both(
    Fields({MODEL: Anything()}),
    Mapped(Fields({}, optional={key: Maybe(Number()) for task in TASKS.values() for key in task.is_quality})),
)
_STATISTICS = Mapped(Items(Items(Whole())))
_RUN = Fields(
    {
        "statistics": _STATISTICS,
        "reports": Mapped(_QUALITIES),
        "curve": Fields({"steps": Items(Whole()), "values": Items(Number())}),
    }
)
_BASELINES = Fields({"statistics": Mapped(_STATISTICS)})
_NUMBERS = {key: Maybe(Number(nan=True)) for task in TASKS.values() for key in task.facts_kept}
_FIGURES = Fields(optional={**_NUMBERS, DEVICE: Maybe(Text()), WALL: Number(0), PROCESSES: Whole(low=1)})
_COSTS = Fields({"training": _FIGURES})


@dataclass(frozen=True)
class KeptRun:
    """What is kept of a run.

    Attributes:
        reason: why there is nothing; ``None`` if there is something.
        training: the facts of the training (see ``results.json``) that tables show.
        reports: for each split, the qualities of the trained model and of the baselines, those that the run measured.
        steps, values: what was evaluated while training.
        statistics: for each split, what :class:`~layerselect.tasks.compare.counts.Counts` keeps of the predictions.
    """

    run: Run
    reason: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    reports: Mapping[str, Mapping[str, Mapping[str, float | None]]] = field(default_factory=dict)
    steps: Sequence[int] = ()
    values: Sequence[float] = ()
    statistics: Mapping[str, np.ndarray] = field(default_factory=dict)


class KeptRuns:
    """The files of a comparison's finished runs.

    Args:
        folder: of the comparison.
        task: what the runs are of.
    """

    def __init__(self, folder: Path, task: Task) -> None:
        self.folder, self._task = folder / KEPT, task
        self._examples = KeptExamples(self.folder)

    def has(self, run: Run) -> bool:
        """Whether a run is finished and kept."""
        return (self.folder / f"{run.name}.json").is_file()

    def keep(self, files: RunFiles, settings: TrainingSettings, corpus: Corpus) -> None:
        """Keeps a run, and its fold's examples and baselines unless they are kept already.

        Args:
            files: what the run left in its folder.
            settings: of a run in its fold, whose training split the baselines learn from.
            corpus: as such a run reads it.

        Raises:
            Mismatch: the run was not evaluated on the examples of the fold's other runs.
        """
        run, counts = files.run, self._task.counts
        names = [name for name in files.predictions if run.fold is None or name == TEST]
        records = {name: sorted(files.predictions[name], key=lambda record: record["id"]) for name in names}
        self.folder.mkdir(parents=True, exist_ok=True)
        truth = self._examples.same(run, records, corpus)
        baselines = self._path("baselines", run.fold)
        # One run of a fold also has what the untrained model wrote; it need not be the first that is kept.
        if not baselines.is_file() or any("others" in each for several in records.values() for each in several):
            _write_baselines(baselines, counts.baselines(settings, corpus, records, truth))
        size = run.variant.train_size
        if size and counts.of_each_size and not (of_size := self._path(_of_size(size), run.fold)).is_file():
            smaller = replace(settings, train_size=size)
            found = counts.baselines(smaller, smaller.load_corpus(), records, truth)
            _write_baselines(of_size, {f"{name}@{size}": found[name] for name in counts.of_each_size})
        costs = {key: files.training.get(key) for key in (*self._task.facts_kept, DEVICE)}
        if (count := files.training.get(PROCESSES, 1)) > 1:
            costs[PROCESSES] = count
        costs[WALL] = round(sum(files.training.get("stages", {}).values()), 3)
        write_kept(self.folder / f"{run.name}.costs.json", {"training": costs})
        evaluations = [line for line in files.metrics if not line.get("final")]
        key, qualities = self._task.curve[0], sorted(self._task.is_quality)  # a set has another order in each process
        content = {
            "reports": {
                split: {name: {key: report.get(key) for key in qualities} for name, report in each.items()}
                for split, each in files.reports.items()
                if split in names
            },
            "curve": {
                "steps": [line["step"] for line in evaluations],
                "values": [line[key] for line in evaluations],
            },
            "statistics": _lists({name: counts.statistics(records[name], truth[name]) for name in names}),
        }
        write_kept(self.folder / f"{run.name}.json", content)

    def read(self, run: Run) -> KeptRun:
        """What is kept of a run; a file that is missing, damaged or does not fit its examples is a failure."""
        try:
            content = self._read(self.folder / f"{run.name}.json", _RUN)
            costs = self._read(self.folder / f"{run.name}.costs.json", _COSTS)
            statistics = self._arrays(content["statistics"], run.fold, f"{run.name}.json")
            _check_complete(content, self._task)
        except (DamagedFile, Mismatch) as error:
            return KeptRun(run, reason=f"what is kept of it cannot be used: {' '.join(str(error).split())}")
        curve = content["curve"]
        return KeptRun(run, None, costs["training"], content["reports"], curve["steps"], curve["values"], statistics)

    def processes(self, run: Run) -> int | None:
        """In how many processes a kept run was trained; ``None`` where that cannot be read."""
        try:
            costs = self._read(self.folder / f"{run.name}.costs.json", _COSTS)
        except DamagedFile:
            return None
        return int(costs["training"].get(PROCESSES, 1))

    def baselines(self, fold: int | None, sizes: Collection[str] = ()) -> dict[str, dict[str, np.ndarray]]:
        """The statistics of a fold's baselines, by their names and the split.

        Args:
            sizes: of training splits; ``NAME@SIZE`` is what a baseline comes to that learned from so much. Those that
                are not kept are left out.

        Raises:
            DamagedFile: they cannot be read.
        """
        smaller = [path for size in sizes if (path := self._path(_of_size(size), fold)).is_file()]
        found: dict[str, dict[str, np.ndarray]] = {}
        for path in (self._path("baselines", fold), *smaller):
            content = self._read(path, _BASELINES)["statistics"]
            try:
                found |= {name: self._arrays(each, fold, path.name) for name, each in content.items()}
            except Mismatch as error:
                raise DamagedFile(path, str(error), ADVICE) from error
        return found

    def examples(self, fold: int | None) -> dict[str, Truth]:
        """The examples of a fold, by split.

        Raises:
            DamagedFile: they cannot be read.
        """
        return self._examples.of(fold)

    def _arrays(self, lists: Mapping[str, Any], fold: int | None, where: str) -> dict[str, np.ndarray]:
        truth, found = self.examples(fold), {}
        for split, rows in lists.items():
            if split not in truth or len(rows) != len(truth[split]):
                raise Mismatch(f"statistics.{split}", f"in {where} does not hold one row for each example")
            widths = self._task.counts.widths(truth[split])
            if len({len(row) for row in rows}) != 1 or len(rows[0]) not in widths:
                numbers = " or ".join(map(str, widths))
                raise Mismatch(f"statistics.{split}", f"in {where} holds rows that have not {numbers} numbers")
            found[split] = np.array(rows, dtype=np.int64)
        return found

    def _path(self, kind: str, fold: int | None) -> Path:
        return path_of_fold(self.folder, kind, fold)

    @staticmethod
    def _read(path: Path, kind: Kind) -> Any:
        return read_json(path, kind, advice=ADVICE, constants=True)


def _check_complete(content: Mapping[str, Any], task: Task) -> None:
    """Raises :class:`Mismatch` where a part of what is kept of a run lacks what another one speaks of."""
    for split in content["statistics"]:
        if split not in content["reports"]:
            raise Mismatch("reports", f"hold nothing of the split {split}")
        lacking = task.needed_quality - set(content["reports"][split][MODEL])
        if lacking:
            raise Mismatch(f"reports.{split}.{MODEL}", f"has no {sorted(lacking)[0]}")
    if len(content["curve"]["steps"]) != len(content["curve"]["values"]):
        raise Mismatch("curve", "holds lists of different lengths")


def _of_size(size: str) -> str:
    """The kind of file that keeps the baselines that learned from so much of the training split."""
    return as_file_name(f"baselines@{size}")


def _write_baselines(path: Path, found: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    write_kept(path, {"statistics": {name: _lists(each) for name, each in found.items()}})


def _lists(statistics: Mapping[str, np.ndarray]) -> dict[str, list[list[int]]]:
    return {name: values.tolist() for name, values in statistics.items()}
