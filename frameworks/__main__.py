"""The command: ``python -m frameworks``. It runs what was not run yet and writes ``docs/frameworks.md``."""

from __future__ import annotations

import argparse
import logging
import re
import signal
import sys

from .cases import all_cases
from .environments import FOLDER
from .kept import RESULTS_FOLDER, is_right, package, result_of
from .runner import Runner
from .table import write

logger = logging.getLogger("frameworks")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m frameworks", description=__doc__)
    parser.add_argument("--only", metavar="PATTERN", default="", help="only cases whose names match this expression")
    parser.add_argument("--again", action="store_true", help="run them again even where a result is kept")
    parser.add_argument(
        "--keep", action="store_true", help="keep results that were made with other code of the package"
    )
    parser.add_argument("--wrong", action="store_true", help="run again those whose result is not right")
    parser.add_argument("--jobs", type=int, default=2, help="how many cases run at a time (default: 2)")
    parser.add_argument("--list", action="store_true", help="only say what there is, and what came of it")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/frameworks.md as it is")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C does: the cases that run are ended
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)

    every = all_cases()
    cases = [case for case in every if re.search(args.only, case.name)]
    if args.list:
        for case in cases:
            kept = result_of(case)
            logger.info("%-46s %s", case.name, "not run" if kept is None else f"{kept['result']}: {kept['sentence']}")
        return 0
    results = {case.name: result_of(case) for case in cases}
    wrong = {case.name for case in cases if (kept := results[case.name]) and not is_right(case, kept)}
    stale = {case.name for case in cases if (kept := results[case.name]) and kept["package"] != package()}
    todo = [
        case
        for case in cases
        if args.again
        or results[case.name] is None
        or (not args.keep and case.name in stale)
        or (args.wrong and case.name in wrong)
    ]
    logger.info("%d cases, %d to run; results and logs are kept in %s", len(cases), len(todo), FOLDER)
    Runner(args.jobs).run_all(todo)

    if not args.no_docs:
        write(every)
    not_right = [case for case in cases if (kept := result_of(case)) and not is_right(case, kept)]
    for case in not_right:
        kept = result_of(case)
        logger.info("not right: %s (%s): %s", case.name, kept and kept["result"], kept and kept["sentence"])
    logger.info("%d of %d cases are not as they should be; see %s", len(not_right), len(cases), RESULTS_FOLDER)
    return 1 if not_right else 0


if __name__ == "__main__":
    sys.exit(main())
