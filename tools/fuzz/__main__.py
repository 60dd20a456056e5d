"""The command ``make fuzz MINUTES=``: gives the package inputs that nobody meant, and says what came of them.

    python -m tools.fuzz [--minutes 10] [--seed 1] [--part corpora]     every part, or one
    python -m tools.fuzz --part corpora --seed 1.4 --case 118            one case again, with its traceback

A part is a module ``part_NAME.py`` beside this file with a function ``cases(rng)`` that yields (name, callable) for as
long as it is asked. Everything random is drawn before the pair is yielded, so that a case can be had again by its
number. A case is right when its callable returns, or raises a `LayerSelectError` of one line, within 5 seconds of the
processor and 1 GB more memory than before it. Each part runs in a process of its own, in an empty folder that is its
working directory and its TMPDIR. A process that dies, hangs or takes too much is replaced, and the part goes on with
the next round of its seed.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .supervisor import Tally, run_part
from .worker import repeat

logger = logging.getLogger("fuzz")


def part_names() -> list[str]:
    """Every part there is."""
    return sorted(path.stem.removeprefix("part_") for path in Path(__file__).parent.glob("part_*.py"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description="Random broken inputs for every part.")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all parts together (default: 10)")
    parser.add_argument("--seed", default="1", help="whole number; ROUND after a dot where a case is had again")
    parser.add_argument("--part", action="append", choices=part_names(), help="only this one; may be repeated")
    parser.add_argument("--case", type=int, default=None, help="run one case here, by its number")
    parser.add_argument("--jobs", type=int, default=2, help="parts at a time (default: 2)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parts = args.part or part_names()
    if args.case is not None:
        if len(parts) != 1:
            parser.error("--case needs one --part")
        repeat(parts[0], args.seed, args.case)
        return 0
    jobs = max(1, min(args.jobs, len(parts)))
    seconds = args.minutes * 60 * jobs / len(parts)
    start = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        tallies = list(pool.map(lambda part: run_part(part, args.seed, seconds), parts))
    for tally in tallies:
        _report(tally, args.seed)
    total = sum(tally.cases for tally in tallies)
    wrong = sum(len(tally.failures) for tally in tallies)
    logger.info(
        "fuzz: %d parts, %d cases, %d kinds of failure, %.0f s", len(tallies), total, wrong, time.monotonic() - start
    )
    return 1 if wrong else 0


def _report(tally: Tally, seed: str) -> None:
    for kind, (first, count) in sorted(tally.failures.items()):
        logger.info("FAILED %s: %s (%d times; first: --part %s %s)", tally.part, kind, count, tally.part, first)
    logger.info(
        "part %s, seed %s: %d cases, %d read, %d refused in one line, %d kinds of failure; longest %.1f s, most "
        "memory %d MB",
        tally.part,
        seed,
        tally.cases,
        tally.results,
        tally.refusals,
        len(tally.failures),
        tally.longest,
        tally.most_memory >> 20,
    )


if __name__ == "__main__":
    sys.exit(main())
