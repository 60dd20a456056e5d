"""Paths as somebody wrote them: in a shell, in a variable of the environment, in a call."""

from __future__ import annotations

from pathlib import Path

from ..errors import LayerSelectError
from .saved_words import shown


def user_path(given: str | Path, option: str, purpose: str = "exists") -> Path:
    """A path as somebody wrote it, with ``~`` replaced.

    Args:
        option: what names it, for the message.
        purpose: of what it should name instead: "name a place that ...".

    Raises:
        LayerSelectError: no path can be so written.
    """
    text = str(given)
    if not text.strip():
        raise LayerSelectError(f"{option} is empty (is a variable of the shell not set?): name a place that {purpose}")
    if "\0" in text:
        raise LayerSelectError(f"{option} {shown(text)} holds a NUL character: name a place that {purpose}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        # The settings of a run are kept as UTF-8.
        raise LayerSelectError(
            f"{option} {shown(text)} is no text in UTF-8: give it a name without such characters"
        ) from error
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise LayerSelectError(
            f"{option} {shown(text)} names a user that does not exist: write the whole path"
        ) from error
