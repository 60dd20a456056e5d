"""Damaged text in ArgRewrite's cells, mended where there is no doubt about what it was.

Some workbooks passed through a wrong code page once or twice ("â€™" for "’"), some have every quotation
mark doubled. The first kind can be undone exactly; for the second the writer's essays are asked, because a
doubled mark may also be two marks. (All three drafts are asked: the damage is in some essays too.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_RUN = re.compile(r"[^\x00-\x7f]+")
_CONTROL = re.compile(r"[\x80-\x9f]")
_PLAIN = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'"})


class Essays:
    """A writer's essays, in which sentences are found whatever their white space and kind of quotation marks."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._keys = [_key(undo_wrong_code_page(text)) for text in texts]

    def hold(self, sentence: str) -> bool:
        key = _key(sentence)
        return bool(key) and any(key in text for text in self._keys)


def mend(text: str, essays: Essays) -> str:
    """`text` without the damage described above; equal to `text` where there is none or it is not certain."""
    text = undo_wrong_code_page(text)
    single = text.replace('""', '"')
    return single if single != text and essays.hold(single) else text


def _key(text: str) -> str:
    return "".join(text.split()).translate(_PLAIN)


def undo_wrong_code_page(text: str) -> str:
    """UTF-8 that was read as Windows-1252, as often as that happened, put right; other text as it is.

    Each run of letters outside ASCII is tried alone: only a run whose bytes are valid UTF-8 is changed,
    which text that was read rightly practically never is. Control characters that are left over go.
    """
    return _CONTROL.sub("", _RUN.sub(lambda run: _decoded(run.group()), text))


def _decoded(run: str) -> str:
    for _ in range(3):
        try:
            decoded = b"".join(_byte(letter) for letter in run).decode("utf-8")
        except UnicodeError:
            break
        run = decoded
    return run


def _byte(letter: str) -> bytes:
    try:
        return letter.encode("cp1252")
    except UnicodeEncodeError:
        return letter.encode("latin-1")  # the five bytes that Windows-1252 leaves undefined
