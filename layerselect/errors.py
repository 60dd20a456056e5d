"""The one exception type that means "the user can fix this"."""

from __future__ import annotations

#: Characters of a message: what is said first, and what to do, which is said last.
_BEGINS, _ENDS = 1200, 500


class LayerSelectError(ValueError):
    """A problem in what the caller gave us: a file, an option, a model.

    Its message is one sentence that says what is wrong, where, and what to do. The command line
    prints it as one line and exits with status 2; library callers may catch it as ``ValueError``.

    Half of a surrogate pair, which a file name or a broken configuration may hold, is written as an escape: whoever
    logs or saves a message can encode it. Of a message that repeats a value of thousands of characters the middle is
    left out.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(_writable(arg) if isinstance(arg, str) else arg for arg in args))


def _writable(text: str) -> str:
    if len(text) > _BEGINS + _ENDS:
        text = f"{text[:_BEGINS]} … {text[-_ENDS:]}"
    return text.encode("utf-8", "backslashreplace").decode()
