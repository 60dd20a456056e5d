"""Options that several commands share, and the values that options take."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable

from ..utils.saved_schema import MOST
from ..utils.saved_words import shown

#: A number beyond is a slip, at which torch would fall over.
MOST_THREADS = 1024


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command."""
    parser.add_argument("-v", "--verbose", action="count", default=0, help="say what is being done")


def add_dry_run_option(group: argparse._ActionsContainer) -> None:
    """Adds ``--dry-run``."""
    group.add_argument(
        "--dry-run", action="store_true", help="read and check everything, say what would be done, and write nothing"
    )


def add_json_option(group: argparse._ActionsContainer) -> None:
    """Adds ``--json``: the result goes to the standard output as JSON, and nothing else does."""
    group.add_argument("--json", action="store_true", help="print the result as JSON instead of tables")


def add_threads_option(group: argparse._ActionsContainer) -> None:
    """Adds the option ``--threads``."""
    group.add_argument(
        "--threads",
        type=up_to(MOST_THREADS),
        default=None,
        metavar="N",
        help="CPU threads (default: one for each core this process may use)",
    )


def add_holding_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--dtype`` and ``--quantize`` to a command that uses a trained adapter."""
    from ..models.holding import DTYPES, QUANTIZED

    parser.add_argument(
        "--dtype", default=None, choices=DTYPES, help="how the base model is held (default: as it was in the training)"
    )
    parser.add_argument(
        "--quantize",
        default=None,
        choices=QUANTIZED,
        help="hold the linear maps of its layers in 8 or 4 bits (default: as they were in the training)",
    )


def apply_threads(count: int | None) -> None:
    """Sets torch's threads. Without a number an ``OMP_NUM_THREADS`` of the user is left alone."""
    import torch

    if count is not None:
        torch.set_num_threads(count)
    elif "OMP_NUM_THREADS" not in os.environ and hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = _digits(text)
    if value is None or value < 1:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a whole number of at least 1")
    return value


def up_to(most: int) -> Callable[[str], int]:
    """A whole number from 1 to ``most``."""

    def kind(text: str) -> int:
        value = positive(text)
        if value > most:
            raise argparse.ArgumentTypeError(f"{shown(text)} is too large: give at most {most}")
        return value

    return kind


def whole(text: str) -> int:
    """A whole number that 64 bits hold, in digits of ASCII."""
    value = _digits(text)
    if value is None:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a whole number")
    return value


def number(text: str) -> float:
    """A number that is finite, in digits of ASCII."""
    try:
        value = float(text) if text.isascii() else math.nan
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a number") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a finite number")
    return value


def _digits(text: str) -> int | None:
    try:
        value = int(text) if text.isascii() else None
    except ValueError:  # no digits, or thousands of them
        return None
    return value if value is not None and abs(value) <= MOST else None
