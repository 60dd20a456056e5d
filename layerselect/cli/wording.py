"""Messages as the user of a command reads them: one line, and options by the names that were typed."""

from __future__ import annotations

import re
from collections.abc import Mapping

_LONGEST = 1500
_LONGEST_WORD = 300
_WORD = re.compile(rf"\S{{{_LONGEST_WORD + 1},}}")
#: ``mode='freeze'`` as a caller of the library writes it; not inside of a rule with its options, nor in a path.
_ARGUMENT = re.compile(r"(?<![\w:;.=\"'(/-])([a-z][a-z_]*)=(?:'([^'\s]*)'|(-?[\w.+-]*\w))?(?![\w'\"(\[])")


def one_line(message: str) -> str:
    """A message on one line that a terminal can show: no line breaks, no control characters, nothing without an end."""
    text = " ".join(message.split())
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    text = _WORD.sub(lambda found: found[0][:_LONGEST_WORD] + "…", text)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def in_options(message: str, options: Mapping[str, str]) -> str:
    """``mode='freeze'`` in a message becomes ``--mode freeze``, where the command has such an option.

    Args:
        options: the command's, by the name of the argument.
    """
    if message.startswith("rule "):  # whose options are written so
        return message

    def spelled(found: re.Match[str]) -> str:
        name, quoted, bare = found.groups()
        if name not in options:
            return found[0]
        value = bare if quoted is None else quoted or "''"
        return options[name] if value in (None, "True") else f"{options[name]} {value}"

    return _ARGUMENT.sub(spelled, message)
