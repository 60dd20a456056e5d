"""Runs one run: reads its task and settings as JSON from the standard input, trains, and ends with one line if it
cannot.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from ...errors import LayerSelectError
from ...models.load import quiet_transformers
from ...report.state_cache import cache_size_line
from ..plan.before import planned
from .runs import NOTE, PART
from .tasks import TASKS

logger = logging.getLogger(__name__)

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
            self._write(PART, self._stage)
        elif kind == "step" and time.monotonic() - self._told > _SECONDS:
            self._write(PART, f"{self._stage} {record['step']} of {record['steps']}")
        elif kind == "revise" and time.monotonic() - self._told > _SECONDS:
            self._write(PART, f"revising {record['split']} {record['done']} of {record['examples']}")

    def _write(self, kind: str, text: str) -> None:
        self._told = time.monotonic()
        sys.stdout.write(f"{kind}{text}\n")
        sys.stdout.flush()


def main() -> int:
    """Runs the job that is described on the standard input and returns the exit code."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    quiet_transformers()
    try:
        asked = json.load(sys.stdin)
        task = TASKS[asked["task"]]
        config, teller = task.config(**asked["settings"]), _Teller()
        with planned(config, teller):
            task.run(config, resume=True, on_event=teller)
    except (LayerSelectError, OSError) as error:
        logger.error("%s", " ".join(str(error).split()))
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
