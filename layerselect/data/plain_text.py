"""A text file of the user's that is no corpus: paragraphs, and nothing known of them."""

from __future__ import annotations

import logging
from pathlib import Path

from .file_bytes import decode, read_bytes, shown
from .schema import CorpusError

log = logging.getLogger(__name__)


def read_plain_text(path: Path) -> str:
    """The text in a file, without white space around it.

    Raises:
        CorpusError: the file cannot be read, is larger than what is read of one file, or holds no text in UTF-8.
    """
    guesses: list[str] = []
    text = decode(read_bytes(path, needs="text in it"), shown(path), guesses).strip()
    for guess in guesses:
        log.warning("%s: %s", shown(path), guess)
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise CorpusError(f"{shown(path)} holds a NUL character (line {line}) and is no text: save it as UTF-8 text")
    if not text:
        raise CorpusError(f"{shown(path)} is empty: give a file with text in it")
    return text
