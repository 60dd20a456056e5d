"""Options that several commands share, and the way a setting becomes an option."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from ..utils.saved_schema import MOST
from ..utils.saved_words import shown

#: A number beyond is a slip, at which torch would fall over.
MOST_THREADS = 1024


def add_setting(
    group: argparse._ArgumentGroup,
    flag: str,
    text: str,
    *,
    default: Any = None,
    kind: Callable[[str], Any] = str,
    choices: Sequence[str] | None = None,
    metavar: str | None = None,
    dest: str | None = None,
    known_as: str | None = None,
) -> None:
    """Adds an option that leaves no trace in the namespace unless it is given, so that presets can tell.

    Args:
        known_as: what ``transformers`` and ``peft`` call it, where they do; shown first, and ``flag`` is its short
            form.
    """
    kind = {int: whole, float: number}.get(kind, kind)
    of_default = "" if default is None else f" (default: {default})"
    group.add_argument(
        *([] if known_as is None else [known_as]),
        flag,
        type=kind,
        choices=choices,
        metavar=metavar,
        default=argparse.SUPPRESS,
        help=text.replace("%", "%%") + of_default,
        dest=dest or flag.removeprefix("--").replace("-", "_"),
    )


def add_flag(group: argparse._ArgumentGroup, flag: str, text: str) -> None:
    """Adds an option without a value, absent from the namespace unless given."""
    group.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=text)


def add_model_option(group: argparse._ActionsContainer, text: str, *, required: bool = True) -> None:
    """Adds the option that names a model; absent it is ``None``."""
    group.add_argument("--model-name-or-path", "--model", dest="model", required=required, metavar="MODEL", help=text)


def add_output_option(group: argparse._ActionsContainer, text: str, *, required: bool = True) -> None:
    """Adds the option that names the folder of the results; absent it is ``None``."""
    group.add_argument("--output-dir", "--out", dest="out", required=required, metavar="DIR", help=text)


def add_corpus_options(group: argparse._ArgumentGroup) -> None:
    """How a corpus is read; the destinations are those of ``load_corpus`` (``split_seed`` is its ``seed``)."""
    add_setting(
        group,
        "--splits",
        "'document': split again so that no document stands in two splits; 'official': the corpus's own splits",
        default="document",
        choices=("document", "official"),
    )
    add_setting(
        group,
        "--labels",
        "label set: 'default', 'all' (with the labels that the papers drop), 'surface-content' "
        "(ArgRewrite), 'coarse' (arXivEdits)",
        default="default",
        metavar="SET",
    )
    add_setting(
        group, "--multi", "rows with several labels: keep or drop them", default="keep", choices=("keep", "drop")
    )
    add_setting(group, "--before", "column with the text before the revision", metavar="COLUMN")
    add_setting(group, "--after", "column with the text after the revision", metavar="COLUMN")
    add_setting(group, "--label", "column with the intention", metavar="COLUMN")
    add_setting(group, "--doc-id", "column that names the document", metavar="COLUMN")
    add_setting(group, "--label-delimiter", "what separates several intentions in one cell", metavar="TEXT")
    add_flag(group, "--strict", "stop at the first malformed row instead of skipping and counting it")
    add_setting(group, "--split-seed", "seed of splits by document", default=0, kind=int, metavar="N")


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command."""
    parser.add_argument("-v", "--verbose", action="count", default=0, help="say what is being done")


def add_threads_option(group: argparse._ActionsContainer) -> None:
    """Adds the option ``--threads``."""
    group.add_argument(
        "--threads",
        type=up_to(MOST_THREADS),
        default=None,
        metavar="N",
        help="CPU threads (default: one for each core this process may use)",
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
