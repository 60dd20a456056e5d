"""Runs one run: reads its task and settings as JSON from the standard input, trains, and ends with one line if it
cannot.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from ...errors import LayerSelectError
from ...models.load import quiet_transformers
from ...report.state_cache import cache_size_line
from .runs import NOTE
from .tasks import TASKS

logger = logging.getLogger(__name__)


def _pass_on(kind: str, record: dict[str, Any]) -> None:
    """Writes what the user of the comparison should know to the standard output."""
    if kind == "state_cache":
        for text in (cache_size_line(record), record["warning"]):
            if text is not None:
                sys.stdout.write(f"{NOTE}{text}\n")
                sys.stdout.flush()


def main() -> int:
    """Runs the job that is described on the standard input and returns the exit code."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    quiet_transformers()
    try:
        asked = json.load(sys.stdin)
        task = TASKS[asked["task"]]
        task.run(task.config(**asked["settings"]), resume=True, on_event=_pass_on)
    except (LayerSelectError, OSError) as error:
        logger.error("%s", " ".join(str(error).split()))
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
