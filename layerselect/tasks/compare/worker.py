"""Runs one run: reads its task and settings as JSON from the file that it is given, or from the standard input, trains,
and ends with one line if it cannot. A launcher may have started several such processes for the run.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from ...errors import LayerSelectError
from ...models.load import quiet_transformers
from ...report.state_cache import cache_size_line
from ...utils.launch import is_first_of_launch, leave_launch
from ..plan.before import planned
from ..run.stages import TRAINING
from .runs import FAILED, NOTE, PART
from .tasks import TASKS

#: The least time between two lines about how far a run is.
_SECONDS = 0.5


class _Teller:
    """Writes what the user of the comparison should know to the standard output: notes, and how far the run is."""

    def __init__(self) -> None:
        self._told, self._stage = 0.0, ""

    def __call__(self, kind: str, record: dict[str, Any]) -> None:
        if kind == "state_cache":
            for text in (cache_size_line(record), record["warning"]):
                if text is not None:
                    self._write(NOTE, text)
        elif kind == "planned":
            self._write(NOTE, record["text"])
        elif kind == "stage":
            self._stage = record["name"]
            self._so_far(self._stage)
        elif kind == "step" and time.monotonic() - self._told > _SECONDS:
            share = {"share": record["step"] / record["steps"]} if self._stage == TRAINING else {}
            self._so_far(f"{self._stage} {record['step']} of {record['steps']}", **share)
        elif kind == "revise" and time.monotonic() - self._told > _SECONDS:
            self._so_far(f"revising {record['split']} {record['done']} of {record['examples']}")

    def _so_far(self, text: str, **more: float) -> None:
        self._write(PART, json.dumps({"text": text, **more}))

    def _write(self, kind: str, text: str) -> None:
        self._told = time.monotonic()
        _say(kind, text)


class _Warnings(logging.Handler):
    """Shows what a run warns of. What there is to say of its corpus the comparison has said when it read it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.name.startswith("layerselect.data")

    def emit(self, record: logging.LogRecord) -> None:
        _say(NOTE, record.getMessage())


def _say(kind: str, text: str) -> None:
    sys.stdout.write(f"{kind}{' '.join(text.split())}\n")
    sys.stdout.flush()


def main() -> int:
    """Runs the job that is described and returns the exit code."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    quiet_transformers()
    if is_first_of_launch():
        logging.getLogger("layerselect").addHandler(_Warnings(logging.WARNING))
    try:
        asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")) if sys.argv[1:] else json.load(sys.stdin)
        task = TASKS[asked["task"]]
        config, teller = task.config(**asked["settings"]), _Teller()
        with planned(config, teller if is_first_of_launch() else None):
            task.run(config, resume=True, on_event=teller)
    except (LayerSelectError, OSError) as error:
        _say(FAILED, str(error))
        return 2
    except Exception as error:
        _say(FAILED, f"{type(error).__name__}: {error}")
        raise
    leave_launch()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
