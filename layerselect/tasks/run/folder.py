"""The folder of a run: written beside its place, moved there when it is complete, continued after an interruption."""

from __future__ import annotations

import json
import logging
import time
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
from .importance import importance
from .processes import ALONE, Processes
from .settings import TrainingSettings

logger = logging.getLogger(__name__)

#: Files of a finished run.
RESULTS = "results.json"
IMPORTANCE = "importance.json"
HISTORY = "history.safetensors"
PREDICTIONS = "predictions.jsonl"
METRICS = "metrics.jsonl"
TRAINING_LOG = "training.jsonl"
#: A line of ``metrics.jsonl`` or ``training.jsonl``: numbers by name, and the split.
LOG_LINE = Fields(
    {"step": Whole()}, optional={name: Maybe(Number(nan=True)) for name in ("epoch", "loss", "lr", "macro_f1")}
)
_CONFIG = Fields({"command": Text()}, optional={"settings": Mapped(), "processes": Whole(low=1)})
#: Seconds within which another machine sees a new folder.
_SEEN_WITHIN = 15.0

#: Folder of the Trainer's checkpoints inside the unfinished run.
CHECKPOINTS = "checkpoints"
#: Folder inside the unfinished run: hidden states that its processes pass on to each other, and nobody keeps.
STATES = "states"
#: Beside the checkpoints: the history of all steps, to which the selector appends. It goes with them when the run is
#: complete.
HISTORY_ROWS = f"{CHECKPOINTS}/history.rows"


class RunFolder:
    """The files of one run.

    Everything is written to ``OUT.partial``; :meth:`finish` renames it to ``OUT``. An interrupted run leaves
    ``OUT.partial`` and never touches a folder that stands at ``OUT``. That holds for a process killed at any moment:
    ``OUT.partial`` always has its ``config.json``, and what stands at ``OUT`` is complete. Of several processes the
    first one writes; in the others nothing that would write does anything.

    Args:
        command: what makes such runs, ``layerselect intent``; a folder of another command is not ours.
        config: of the run; ``config.out`` is the place.
        resume: continue what lies in ``OUT.partial``; begin afresh where nothing does, unless the run is finished.
        overwrite: replace an earlier run at ``OUT``, or drop an interrupted one. Folders of other origin are never
            replaced.
        processes: of the run.

    Attributes:
        path: where the files are now.
        finished: the run is there already, complete; there is nothing to do.
        writes: this process is the one that writes.

    Raises:
        LayerSelectError: the place is taken, or the interrupted or finished run has other settings.
    """

    def __init__(
        self,
        command: str,
        config: TrainingSettings,
        *,
        resume: bool = False,
        overwrite: bool = False,
        processes: Processes = ALONE,
    ) -> None:
        self._command, self._config, self._resume = command, config, resume
        self._processes, self.writes = processes, processes.is_first
        named = {"--from": "predictor", "--forgetting": "forgetting"}  # of one task
        kept = {option: getattr(config, name, None) for option, name in named.items()}
        kept |= {"--model": config.model, "--placement": config.placement}
        self._target = output_path(config.out, apart={"--data": config.data}, kept=kept)
        self._claim = Claim(self._target)
        self.path, self.finished = partial_folder(self._target), False
        try:
            if self.writes:
                self._look(resume, overwrite)
        except BaseException:
            self._claim.release()
            raise
        found = processes.from_first(lambda: [str(self.path), self.finished])
        self.path, self.finished = Path(found[0]), found[1]

    def _look(self, resume: bool, overwrite: bool) -> None:
        """What is there, and whether this run may go there."""
        self.finished = resume and not overwrite and not self.path.exists() and self._is_ours(self._target)
        if self.finished:
            self._config.check_same_run(self._settings(self._target) or {}, "finished")
            self._check_processes(self._target, "finished")
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
        """Makes the folder, or takes up the interrupted one; until then nothing was written.

        Raises:
            LayerSelectError: a process does not see what the first one writes.
        """
        if self.writes:
            self._open()
        self._processes.meet()
        missing = [rank for rank, sees in enumerate(self._processes.gather(self._is_seen())) if not sees]
        if missing:
            raise LayerSelectError(
                f"process {missing[0]} of {self._processes.count} does not see {str(self.path)!r}, which process 0 "
                "writes: put --out on a disk that all machines share"
            )

    def _is_seen(self) -> bool:
        """Whether the folder is there; file systems on a network may take some time to show it."""
        until = time.monotonic() + _SEEN_WITHIN
        while not (there := (self.path / "config.json").is_file()) and time.monotonic() < until:
            time.sleep(0.1)
        return there

    def _open(self) -> None:
        if not self._resume:
            discard(self.path)
        if self.path.exists():
            return
        if self._resume:
            logger.info("there is no interrupted run in %s: starting afresh", self.path)
        place = self.path
        self.path = place.with_name(f".{place.name}.new")
        discard(self.path)
        self.write_json("config.json", self.head())
        self.path = self.path.rename(place)

    def head(self) -> dict[str, Any]:
        """What makes the run, as ``config.json`` begins: the command, its settings, and by how many processes."""
        return {
            "command": self._command,
            "settings": self._config.as_dict(),
            "processes": self._processes.count,
        }

    def write_json(self, name: str, content: Any) -> None:
        """Writes a file whole or not at all."""
        if not self.writes:
            return
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
        if self.writes:
            save_file({name: np.ascontiguousarray(values) for name, values in rows.items()}, self.path / HISTORY)
        return chosen, rows

    def append_line(self, name: str, record: Mapping[str, Any]) -> None:
        """Adds one JSON object to a JSON Lines file."""
        if not self.writes:
            return
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def write_lines(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Writes a JSON Lines file whole or not at all."""
        if not self.writes:
            return
        scratch = self.path / (name + ".new")
        with scratch.open("w", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        scratch.replace(self.path / name)

    def keep_lines_until(self, name: str, step: int) -> None:
        """Drops the lines of steps after ``step`` and those marked ``final``: a resumed run writes them again."""
        if self.writes and (self.path / name).exists():
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
        self._processes.meet()  # nobody reads there any more
        if self.writes:
            move_into_place(self.path, self._target)
            discard(self._target / CHECKPOINTS)
        self._claim.release()
        self._processes.meet()
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
        self._check_processes(self.path, "interrupted")

    def _check_processes(self, folder: Path, what: str) -> None:
        """Refuses to continue a run of another number of processes, whose steps are over other examples."""
        content = read_json(folder / "config.json", _CONFIG, advice="remove the folder", constants=True)
        before, now = content.get("processes", 1), self._processes.count
        if before != now:
            raise LayerSelectError(
                f"the {what} run in {self._config.out!r} has {before} {'process' if before == 1 else 'processes'}, not "
                f"{now}: start as many to resume it, or start afresh with --overwrite"
            )

    def _settings(self, folder: Path) -> dict[str, Any] | None:
        """The settings of a run of our command; ``None`` if the folder is none."""
        try:
            content = read_json(folder / "config.json", _CONFIG, advice="remove the folder", constants=True)
        except DamagedFile:
            return None
        return content.get("settings") if content["command"] == self._command else None

    def _is_ours(self, folder: Path) -> bool:
        return self._settings(folder) is not None


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
