"""Folders that a later command goes on with, if it has the same settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import LayerSelectError
from .saved_words import in_words


def check_continues(
    folder: Path, theirs: Mapping[str, Any] | None, ours: Mapping[str, Any], *, what: str, overwrite: bool
) -> None:
    """Finds out whether a command may write into a folder, or go on there.

    Args:
        theirs: the settings that the folder was made with, as JSON values; ``None`` where it says none.
        ours: those of the command, likewise.
        what: what the folder becomes, such as ``comparison``.
        overwrite: whether one with other settings may be replaced.

    Raises:
        LayerSelectError: something else is there, or one with other settings.
    """
    if folder.exists() and not folder.is_dir():
        raise LayerSelectError(f"--out {str(folder)!r} is a file: choose another place")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if theirs is None:
        raise LayerSelectError(
            f"--out {str(folder)!r} is a folder that no {what} of layerselect made: choose another place"
        )
    changed = [name for name in {*theirs, *ours} if theirs.get(name) != ours.get(name)]
    # Defaults of other settings may hang on these two.
    changed.sort(key=lambda name: (name not in ("data", "model"), name))
    if changed and not overwrite:
        name = changed[0]
        raise LayerSelectError(
            f"the {what} in {str(folder)!r} has --{name.replace('_', '-')} {in_words(theirs.get(name))}, not "
            f"{in_words(ours.get(name))}: repeat its options to continue it, or start afresh with --overwrite"
        )
