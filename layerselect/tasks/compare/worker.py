"""Runs one cell: reads its task and settings as JSON from the standard input, trains, and ends with one line if it cannot."""

from __future__ import annotations

import json
import logging
import sys

from ...errors import LayerSelectError
from ..models import quiet_transformers
from .tasks import TASKS

logger = logging.getLogger(__name__)


def main() -> int:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    quiet_transformers()
    try:
        asked = json.load(sys.stdin)
        task = TASKS[asked["task"]]
        task.run(task.config(**asked["settings"]), resume=True)
    except (LayerSelectError, OSError) as error:
        logger.error("%s", " ".join(str(error).split()))
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
