"""The folder of a run: written beside its place, moved there when it is complete, continued after an interruption."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ...errors import LayerSelectError
from ...utils.claims import Claim
from ...utils.folders import check_free, discard, move_into_place, partial_folder, replaced_folder
from ...utils.places import output_path
from ...utils.saved_files import DamagedFile, read_json, read_json_lines
from ...utils.saved_schema import Fields, Mapped, Maybe, Number, Text, Whole
from .settings import TrainingSettings

logger = logging.getLogger(__name__)

#: Files of a finished run.
RESULTS = "results.json"
IMPORTANCE = "importance.json"
HISTORY = "history.safetensors"
PREDICTIONS = "predictions.jsonl"
METRICS = "metrics.jsonl"
TRAINING_LOG = "training.jsonl"
IMPORTANCE_VERSION = 1
#: A line of ``metrics.jsonl`` or ``training.jsonl``: numbers by name, and the split.
LOG_LINE = Fields(
    {"step": Whole()}, optional={name: Maybe(Number(nan=True)) for name in ("epoch", "loss", "lr", "macro_f1")}
)
_CONFIG = Fields({"command": Text()}, optional={"settings": Mapped()})

#: Folder of the Trainer's checkpoints inside the unfinished run.
CHECKPOINTS = "checkpoints"
#: Beside the checkpoints: the history of all steps, to which the selector appends. It goes with them when the run is
#: complete.
HISTORY_ROWS = f"{CHECKPOINTS}/history.rows"


class RunFolder:
    """The files of one run.

    Everything is written to ``OUT.partial``; :meth:`finish` renames it to ``OUT``. An interrupted run leaves
    ``OUT.partial`` and never touches a folder that stands at ``OUT``. That holds for a process killed at any moment:
    ``OUT.partial`` always has its ``config.json``, and what stands at ``OUT`` is complete.

    Args:
        command: what makes such runs, ``layerselect intent``; a folder of another command is not ours.
        config: of the run; ``config.out`` is the place.
        resume: continue what lies in ``OUT.partial``; begin afresh where nothing does, unless the run is finished.
        overwrite: replace an earlier run at ``OUT``, or drop an interrupted one. Folders of other origin are never
            replaced.

    Attributes:
        path: where the files are now.
        finished: the run is there already, complete; there is nothing to do.

    Raises:
        LayerSelectError: the place is taken, or the interrupted or finished run has other settings.
    """

    def __init__(
        self, command: str, config: TrainingSettings, *, resume: bool = False, overwrite: bool = False
    ) -> None:
        self._command, self._config, self._resume = command, config, resume
        self._target = output_path(
            config.out,
            apart={"--data": config.data},
            kept={"--model": config.model, "--from": getattr(config, "predictor", None)},
        )
        self._claim = Claim(self._target)
        try:
            self._look(resume, overwrite)
        except BaseException:
            self._claim.release()
            raise

    def _look(self, resume: bool, overwrite: bool) -> None:
        """What is there, and whether this run may go there."""
        self.path = partial_folder(self._target)
        self.finished = resume and not overwrite and not self.path.exists() and self._is_ours(self._target)
        if self.finished:
            self._config.check_same_run(self._settings(self._target) or {}, "finished")
            self.path = self._target
            for leftover in (self.path / CHECKPOINTS, replaced_folder(self.path)):
                discard(leftover)  # of a process that was killed when all was done
            self._claim.release()
            return
        self._check_target(overwrite)
        if self.path.exists():
            if resume:
                self._check_resumable()
            elif not (overwrite and self._is_ours(self.path)):
                raise LayerSelectError(
                    f"an interrupted run lies in {str(self.path)!r}: continue it with --resume, or drop it with "
                    "--overwrite"
                )

    def open(self) -> None:
        """Makes the folder, or takes up the interrupted one; until then nothing was written."""
        if not self._resume:
            discard(self.path)
        if self.path.exists():
            return
        if self._resume:
            logger.info("there is no interrupted run in %s: starting afresh", self.path)
        place = self.path
        self.path = place.with_name(f".{place.name}.new")
        discard(self.path)
        self.write_json("config.json", {"command": self._command, "settings": self._config.as_dict()})
        self.path = self.path.rename(place)

    def write_json(self, name: str, content: Any) -> None:
        """Writes a file whole or not at all."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(path.name + ".new")
        scratch.write_text(_json_text(content) + "\n", encoding="utf-8")
        scratch.replace(path)

    def write_selection(self, selector: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Writes ``importance.json`` and ``history.safetensors``.

        Returns:
            What they hold: see :func:`importance`, and the rows of ``selector.history``.
        """
        chosen, rows = importance(selector), selector.history.arrays()
        self.write_json(IMPORTANCE, chosen)
        save_file({name: np.ascontiguousarray(values) for name, values in rows.items()}, self.path / HISTORY)
        return chosen, rows

    def append_line(self, name: str, record: Mapping[str, Any]) -> None:
        """Adds one JSON object to a JSON Lines file."""
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def write_lines(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Writes a JSON Lines file whole or not at all."""
        scratch = self.path / (name + ".new")
        with scratch.open("w", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        scratch.replace(self.path / name)

    def keep_lines_until(self, name: str, step: int) -> None:
        """Drops the lines of steps after ``step`` and those marked ``final``: a resumed run writes them again."""
        if (self.path / name).exists():
            kept = [r for r in self.read_lines(name) if r["step"] <= step and not r.get("final")]
            self.write_lines(name, kept)

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """The objects of a log of this run; none if there is no such file. A last line cut by an interruption is
        dropped.

        Raises:
            DamagedFile: another line is damaged.
        """
        path = self.path / name
        if not path.exists():
            return []
        records, broken = read_json_lines(path, LOG_LINE, advice="remove that line", torn=True)
        if broken is not None:
            logger.warning("%s ends in a broken line, which is dropped", path)
        return records

    def finish(self) -> Path:
        """Moves the complete run to its place and returns that. The checkpoints go last: until the run stands in its
        place, a killed process continues from them.
        """
        move_into_place(self.path, self._target)
        discard(self._target / CHECKPOINTS)
        self._claim.release()
        return self._target

    def release(self) -> None:
        """Lets other processes write there, where this one does not."""
        self._claim.release()

    def _check_target(self, overwrite: bool) -> None:
        if not self._target.is_dir() or not any(self._target.iterdir()):
            check_free(self._target)
            return
        if not self._is_ours(self._target):
            raise LayerSelectError(
                f"--out {str(self._target)!r} is a folder that no run of layerselect made: choose another place"
            )
        if not overwrite:
            raise LayerSelectError(
                f"--out {str(self._target)!r} holds an earlier run: choose another place, or replace it with "
                "--overwrite"
            )

    def _check_resumable(self) -> None:
        saved = self._settings(self.path)
        if saved is None:
            raise LayerSelectError(f"{str(self.path)!r} is not an interrupted run of layerselect: remove it")
        self._config.check_same_run(saved, "interrupted")

    def _settings(self, folder: Path) -> dict[str, Any] | None:
        """The settings of a run of our command; ``None`` if the folder is none."""
        try:
            content = read_json(folder / "config.json", _CONFIG, advice="remove the folder", constants=True)
        except DamagedFile:
            return None
        return content.get("settings") if content["command"] == self._command else None

    def _is_ours(self, folder: Path) -> bool:
        return self._settings(folder) is not None


def importance(selector: Any) -> dict[str, Any]:
    """What ``importance.json`` holds: which layers were selected how often, and when; and how often they then trained.

    ``frequency`` counts selections, ``trained_frequency`` those of them in which the layer took gradients: in mode
    ``freeze`` a layer may be selected in a step whose backward pass left it out, and nothing of it trains then.
    ``selections`` lists runs of steps with the same selection: ``{"first": 1, "last": 20, "layers": [0, 3]}``, the
    first step of all being 0; ``trained`` likewise lists which layers took gradients, selected or not (in mode
    ``freeze``; probes train all). A run whose history does not hold all steps has ``history_steps``, the number of
    those that these lists are of.
    """
    rows = selector.history.arrays()
    steps = int(rows["step"][-1]) + 1 if len(rows["step"]) else 0
    return {
        "schema": IMPORTANCE_VERSION,
        "layer_names": list(selector.layer_names),
        "frequency": selector.frequency.cpu().tolist(),
        "trained_frequency": trained_frequency(selector, rows),
        "steps": steps,
        **({} if len(rows["step"]) == steps else {"history_steps": len(rows["step"])}),
        "rule": {"name": selector.rule.name, **selector.rule.config()},
        "mode": selector.mode,
        "score": selector.score,
        "selections": _runs(rows["step"], rows["mask"]),
        "trained": _runs(rows["step"], rows["trained"]),
    }


def trained_frequency(selector: Any, rows: Mapping[str, np.ndarray]) -> list[int]:
    """[L] In how many selections each layer was chosen and took gradients: the selector's own count, if it keeps one;
    by the rows of its history otherwise.
    """
    counted = getattr(selector, "trained_frequency", None)
    if counted is not None:
        return counted.cpu().tolist()
    selects = np.array([selector.schedule.selects_in(step) for step in rows["step"].tolist()], dtype=bool)
    return (rows["mask"] & rows["trained"])[selects].sum(axis=0).tolist()


def _json_text(value: Any, indent: int = 0) -> str:
    """JSON for people too: what fits is on one line, everything else has an item on each line."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if not isinstance(value, (dict, list, tuple)) or not value or len(line) + indent <= 100:
        return line
    inner = " " * (indent + 1)
    if isinstance(value, dict):
        items = [f"{json.dumps(str(key), ensure_ascii=False)}: {_json_text(v, indent + 1)}" for key, v in value.items()]
    else:
        items = [_json_text(item, indent + 1) for item in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return opening + "\n" + ",\n".join(inner + item for item in items) + "\n" + " " * indent + closing


def _runs(steps: np.ndarray, masks: np.ndarray) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = []
    for step, mask in zip(steps.tolist(), masks, strict=True):
        layers = np.flatnonzero(mask).tolist()
        if runs and runs[-1]["layers"] == layers and runs[-1]["last"] == step - 1:
            runs[-1]["last"] = step
        else:
            runs.append({"first": step, "last": step, "layers": layers})
    return runs
