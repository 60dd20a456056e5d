"""The command: ``python -m families``. It tries what was not tried yet and writes ``docs/families.md``."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import re
import signal
import sys
import time

from .kept import FOLDER, keep, package, result_of
from .small import families
from .table import write

logger = logging.getLogger("families")

#: Seconds for one family.
LIMIT = 900


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m families", description=__doc__)
    parser.add_argument("--only", metavar="PATTERN", default="", help="only families whose names match this expression")
    parser.add_argument("--again", action="store_true", help="try them again even where a result is kept")
    parser.add_argument(
        "--keep", action="store_true", help="keep results that were made with other code of the package"
    )
    parser.add_argument("--wrong", action="store_true", help="try again those where something is wrong")
    parser.add_argument("--jobs", type=int, default=2, help="how many families are tried at a time (default: 2)")
    parser.add_argument("--list", action="store_true", help="only say what there is, and what came of it")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/families.md as it is")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C does: the processes that run are ended
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)

    chosen = [family for family in families() if re.fullmatch(args.only or ".*", family)]
    if not args.list:
        todo = [family for family in chosen if args.again or _is_due(family, args.keep, args.wrong)]
        logger.info("%d families, %d to try; results are kept in %s", len(chosen), len(todo), FOLDER)
        _try_all(todo, args.jobs)
        if not args.no_docs:
            write(families())
    wrong = 0
    for family in chosen:
        kept = result_of(family)
        for task, cell in (kept or {"tasks": {}})["tasks"].items():
            wrong += cell["result"] == "wrong"
            if cell["result"] == "wrong" or args.list:
                logger.info("%-24s %-10s %s: %s", family, task, cell["result"], cell["sentence"])
    logger.info("%d results are wrong; see %s", wrong, FOLDER)
    return 1 if wrong else 0


def _is_due(family: str, keep_others: bool, wrong: bool) -> bool:
    kept = result_of(family)
    if kept is None or (not keep_others and kept["package"] != package()):
        return True
    return wrong and any(cell["result"] == "wrong" for cell in kept["tasks"].values())


def _try_all(todo: list[str], jobs: int) -> None:
    """Each family in a process of its own. They are forked from one that has loaded the packages: loading takes longer
    than trying.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["families.trial"])
    running: dict[str, tuple[multiprocessing.process.BaseProcess, float]] = {}
    waiting = list(todo)
    done = 0
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                family = waiting.pop(0)
                process = context.Process(target=keep, args=(family,))
                process.start()
                running[family] = (process, time.monotonic())
            time.sleep(0.2)
            for family, (process, started) in list(running.items()):
                seconds = time.monotonic() - started
                if process.is_alive() and seconds > LIMIT:
                    process.kill()
                    process.join()
                if process.is_alive():
                    continue
                del running[family]
                done += 1
                if process.exitcode:
                    keep(family, f"the process ended with status {process.exitcode} after {seconds:.0f} seconds")
                kept = result_of(family)
                assert kept is not None
                said = " ".join(f"{task}={cell['result']}" for task, cell in kept["tasks"].items()) or kept["builds"]
                logger.info("%3d/%d %-24s %4.0f s  %s", done, len(todo), family, seconds, said)
    finally:
        for process, _ in running.values():
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
