"""What the generator reads and writes: instruction, intentions and text, and behind the cue the revision.

The wording is ours; the scheme is that of Intention-Tuning (Liu & Litman, arXiv 2602.00477).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

#: What a prompt begins with.
REQUEST = "Revise the original text."

#: What a prompt ends with; the model writes the revision behind this.
CUE = "Revised:"

#: An empty text: the source of an insertion, the revision of a deletion.
NOTHING = "(nothing)"

_SPACE = re.compile(r"\s+")


def write_prompt(before: str, intentions: Sequence[str] = ()) -> str:
    """The text after which a model is to write the revision.

    Args:
        before: the text to revise; it may be empty.
        intentions: what the revision is for, in the order in which they are to be named; none is a plain request.
    """
    names = list(dict.fromkeys(intentions))
    request = REQUEST
    if names:
        request += f" Intention{'s' if len(names) > 1 else ''} of the revision: {join_names(names)}."
    return f"{request}\nOriginal: {_written(before)}\n{CUE}"


def write_completion(after: str) -> str:
    """What is to be written behind the prompt and a space."""
    return _written(after)


def read_completion(text: str) -> str:
    """The revision in what a model wrote: without white space around it, and empty where it wrote ``NOTHING``."""
    text = text.strip()
    # Some tokenizers put spaces around brackets.
    return "" if "".join(text.split()) == NOTHING else text


def join_names(names: Sequence[str]) -> str:
    """``clarity``, ``clarity and fluency``, ``clarity, fluency and style``."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def tidy(text: str) -> str:
    """``text`` with every run of white space made one space, or one newline where it holds any, and none at the ends.

    Corpora double the space where a word was added or removed; a model should not learn that.
    """
    return _SPACE.sub(lambda run: "\n" if "\n" in run[0] else " ", text.strip())


def _written(text: str) -> str:
    return tidy(text) or NOTHING
