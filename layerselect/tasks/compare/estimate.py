"""How long the missing runs of a comparison will take, said before they start."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..run.stages import EVALUATION, LOADING, REVISING
from .config import CompareConfig
from .kept import WALL, KeptRuns
from .methods import Run
from .runs import RUNS, read_run

#: Steps and evaluated examples of a trial.
_STEPS, _EXAMPLES = 4, 16
#: Where all runs together have fewer steps, a trial would take a good part of their time.
_WORTH_A_TRIAL = 600


#: Trains one run, given its task and settings and a place for its output; returns why it failed.
Try = Callable[[Run, str, dict[str, Any], Path], str | None]


@dataclass(frozen=True)
class Duration:
    """How long runs will take.

    Attributes:
        seconds: of all of them, as many at a time as the comparison trains.
        by: what was measured.
    """

    seconds: float
    by: str


def from_finished(config: CompareConfig, kept: KeptRuns, missing: Sequence[Run]) -> Duration | None:
    """By the finished runs: those of the same row, else the mean of all; ``None`` where there are none."""
    known: dict[str, list[float]] = {}
    for run in config.runs():
        if kept.has(run) and (wall := kept.read(run).training.get(WALL)):
            known.setdefault(run.variant.name, []).append(wall)
    if not known:
        return None
    means = {name: statistics.mean(seconds) for name, seconds in known.items()}
    usual = statistics.mean(means.values())
    total = sum(means.get(run.variant.name, usual) for run in missing)
    return Duration(total / config.jobs, "the finished runs")


def from_trial(
    config: CompareConfig,
    missing: Sequence[Run],
    examples: Mapping[str, int],
    train: Try,
) -> Duration | None:
    """By a few steps and a few evaluated examples of the first missing run; ``None`` where it would take too much of
    the time itself, or cannot be made (the run itself then says why).

    Args:
        examples: of each split of its fold.
        train: trains the trial.
    """
    run = next((each for each in missing if not each.variant.method.transfers), None)
    if run is None:
        return None
    settings = config.settings(run, config.out)
    steps = settings.steps(examples["train"])
    if steps * len(missing) < _WORTH_A_TRIAL:
        return None
    place = Path(config.out) / "trial"
    try:
        own = fields(settings)
        besides: dict[str, Any] = {each.name: each.default for each in own if each.name in settings.measured_besides}
        trial = replace(
            settings,
            max_steps=_STEPS,
            eval_steps=None,
            eval_limit=_EXAMPLES,
            keep="last",
            patience=None,
            out=str(place),
            **besides,
        )
        log = Path(config.out) / RUNS / "trial.log"
        if train(run, config.task, trial.as_dict(), log) is not None:
            return None
        log.unlink(missing_ok=True)
        files = read_run(run, place)
        if files.reason is not None:
            return None
        stages, evaluated = files.training.get("stages", {}), sum(map(len, files.predictions.values()))
        an_example = sum(stages.get(name, 0.0) for name in (EVALUATION, REVISING)) / max(1, evaluated)
        others = [size for name, size in examples.items() if name != "train"]
        watched = examples.get("validation", 0) * (settings.epochs if settings.max_steps is None else 1)
        if settings.max_steps is None:  # the processes of a launcher share them
            steps = -(-steps // files.training.get("processes", 1))
        each = (
            stages.get(LOADING, 0.0)
            + steps * files.training.get("seconds_per_step", 0.0)
            + (sum(min(size, settings.eval_limit or size) for size in others) + watched) * an_example
        )
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return Duration(each * len(missing) / config.jobs, f"{_STEPS} steps of {run.variant.name}")
