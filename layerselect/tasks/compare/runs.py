"""One run of a comparison: a task in a process of its own, and what is read back from it."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...utils.saved_files import DamagedFile, read_json, read_json_lines, read_tensors
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
    check,
)
from ...utils.saved_tensors import Numbers
from ..run.folder import HISTORY, IMPORTANCE, LOG_LINE, METRICS, PREDICTIONS, RESULTS, TRAINING_LOG
from .launching import Means, started
from .methods import Run
from .tasks import MODEL, TASKS

#: How a line of a run's output begins that its comparison is to show.
NOTE = "note: "
#: How one begins that says why the run cannot be.
FAILED = "failed: "
#: How one begins that says how far the run is: JSON of ``text`` and, of its training, the ``share`` that is done.
PART = "so far: "
#: The folder of a comparison's runs.
RUNS = "runs"
_REASON = 400  # characters of a reason that go into a table
_LINES = 3  # of a launcher that fails

_ADVICE = "remove its folder"
_NAMES = Fields({"layer_names": Items(Text(), least=1)})
#: What tables count with.
_NUMBERS = {key: Maybe(Number(nan=True)) for task in TASKS.values() for key, _, _ in task.columns}
_FIGURES = Fields(optional={**_NUMBERS, "stages": Mapped(Number())})
_RESULTS = Fields(
    {
        "training": _FIGURES,
        "splits": Mapped(
            Fields(
                {"examples": Whole(), "reports": Both(Fields({MODEL: Anything()}), Mapped(_FIGURES))},
                optional={"scored": Whole()},
            )
        ),
    }
)
_PART = Fields({"text": Text()}, optional={"share": Number(0, 1)})
_WORDS = Items(Text())
_PREDICTION = Fields(
    {"id": Text(), "split": Text()},
    optional={
        "labels": _WORDS,
        "intentions": _WORDS,
        "predicted": _WORDS,
        "source": Text(),
        "references": _WORDS,
        "prediction": Text(),
        "others": Mapped(Text()),
    },
)


@dataclass(frozen=True)
class RunFiles:
    """What a run left in its folder.

    Attributes:
        reason: why there is no result; ``None`` if there is one.
        training: the facts of the training (see ``results.json``).
        reports: for each split, the report of the baselines and of the trained model.
        metrics, losses: the lines of ``metrics.jsonl`` and ``training.jsonl``.
        predictions: for each split, the lines of ``predictions.jsonl``.
        history: ``step``, ``scores``, ``mask``, ``trained``, ``threshold`` of all steps.
        layer_names: of the L layers.
    """

    run: Run
    reason: str | None = None
    training: dict[str, Any] = field(default_factory=dict)
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    losses: list[dict[str, Any]] = field(default_factory=list)
    predictions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    history: dict[str, np.ndarray] = field(default_factory=dict)
    layer_names: list[str] = field(default_factory=list)


def is_finished(folder: Path) -> bool:
    """Whether a run stands in ``folder``: a run's folder takes its name when it is complete."""
    return (folder / RESULTS).is_file()


def train_run(
    task: str,
    settings: dict[str, Any],
    log: Path,
    means: Means,
    running: set[subprocess.Popen[str]],
    on_note: Callable[[str], None],
    on_part: Callable[[dict[str, Any]], None],
) -> str | None:
    """Trains one run and waits for it.

    Args:
        task: what the run is of.
        settings: of the task's configuration.
        log: takes all output of the process.
        means: how it is started.
        running: holds the process while it runs, for whoever must stop it.
        on_note: told of every line that the process wants to be shown, while it runs.
        on_part: told how far the run is, ``{"text"}`` and, of its training, ``"share"``, 0 to 1.

    Returns:
        Why it failed, in one line, or ``None``.
    """
    reason = None
    job = {"task": task, "settings": settings}
    try:
        with log.open("w", encoding="utf-8") as output, started(job, log, means) as process:
            assert process.stdout is not None
            running.add(process)
            try:
                for line in process.stdout:
                    if line.startswith(PART):
                        with suppress(ValueError, Mismatch):  # a launcher may begin a line so, too
                            part = json.loads(line.removeprefix(PART))
                            check(_PART, part)
                            on_part(part)
                        continue
                    output.write(line)
                    output.flush()
                    if line.startswith(NOTE):
                        on_note(line.removeprefix(NOTE).rstrip("\n"))
                    if line.startswith(FAILED) and reason is None:  # other processes say it after the first
                        reason = line.removeprefix(FAILED).strip()[:_REASON]
                process.wait()
            finally:
                process.stdout.close()
                running.discard(process)
    except OSError as error:
        return f"{means.launcher[0] if means.launcher else 'its process'} cannot be started: {error.strerror or error}"
    if process.returncode == 0:
        return None
    return reason or _why(process.returncode, log, means)


def read_run(run: Run, folder: Path) -> RunFiles:
    """Reads the finished run in ``folder``; a file that is missing or damaged is a failure with its reason."""
    try:
        layer_names = read_json(folder / IMPORTANCE, _NAMES, advice=_ADVICE)["layer_names"]
        results = read_json(folder / RESULTS, _RESULTS, advice=_ADVICE)
        predictions: dict[str, list[dict[str, Any]]] = {name: [] for name in results["splits"]}
        for record in read_json_lines(folder / PREDICTIONS, _PREDICTION, advice=_ADVICE)[0]:
            predictions.setdefault(record["split"], []).append(record)
        metrics, _ = read_json_lines(folder / METRICS, LOG_LINE, advice=_ADVICE)
        losses, _ = read_json_lines(folder / TRAINING_LOG, LOG_LINE, advice=_ADVICE)
        _check_complete(results["splits"], predictions, metrics)
        return RunFiles(
            run,
            training=results["training"],
            reports={split: content["reports"] for split, content in results["splits"].items()},
            metrics=metrics,
            losses=losses,
            predictions=predictions,
            history=_read_history(folder / HISTORY, len(layer_names)),
            layer_names=layer_names,
        )
    except (DamagedFile, Mismatch) as error:
        text = " ".join(str(error).split())[:_REASON]
        return RunFiles(run, reason=f"its files cannot be read ({text}): remove {folder}")


def _check_complete(
    splits: Mapping[str, Any], predictions: Mapping[str, Sequence[Any]], metrics: Sequence[Mapping[str, Any]]
) -> None:
    """Raises :class:`Mismatch` where one of the files lacks what another one speaks of."""
    for name, content in splits.items():
        quality = content["reports"][MODEL]
        if not any(task.needed_quality <= set(quality) for task in TASKS.values()):
            raise Mismatch(f"splits.{name}", f"in {RESULTS} holds no quality of the {MODEL}")
        expected = content.get("scored", content["examples"])
        if len(predictions[name]) != expected:
            raise Mismatch(PREDICTIONS, f"holds {len(predictions[name])} predictions of {name!r} and not {expected}")
    curves = {task.curve[0] for task in TASKS.values()}
    if not all(line.get("final") or curves & set(line) for line in metrics):
        raise Mismatch(METRICS, f"holds an evaluation without {' or '.join(sorted(curves))}")


def _read_history(path: Path, layers: int) -> dict[str, np.ndarray]:
    step = Numbers("int", (None,), low=0)
    rows = read_tensors(path, Fields({"step": step}), advice=_ADVICE, framework="np")
    count = len(rows["step"])
    needed: dict[str, Kind] = {
        "scores": Numbers("float", (count, layers)),
        "mask": Numbers("bool", (count, layers)),
        "trained": Numbers("bool", (count, layers)),
        "threshold": Numbers("float", (count,)),
    }
    check(Fields(needed), rows, HISTORY)
    return rows


def _why(code: int, log: Path, means: Means) -> str:
    """The reason of a failure that gave none: the signal, or the last line that the process wrote; of a launcher, its
    last lines.
    """
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]
    if means.launcher:
        last = "; ".join([line for line in lines if any(map(str.isalnum, line))][-_LINES:])[-_REASON:]
        return f"the launcher {means.launcher[0]} ended with status {code}: {last or 'it wrote nothing'}"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return (lines[-1] if lines else f"exit status {code}, nothing written")[:_REASON]
