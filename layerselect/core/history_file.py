"""A history in a file: one line of JSON that names the layers, then rows of one size, appended block by block."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import LayerSelectError
from ..utils.saved_files import DamagedFile, read_bytes
from ..utils.saved_json import parse_json
from ..utils.saved_schema import Anything, Fields, Items, Mismatch, Text, check
from ..utils.saved_words import shown
from ..utils.user_paths import user_path

logger = logging.getLogger(__name__)

_KEY = "layerselect_history"
_VERSION = 1
_HEADER = Fields({_KEY: Anything(), "layer_names": Items(Text(), least=1)})
#: A day of steps of a model of a hundred layers has some 10 GB.
_MOST_BYTES = 64 << 30


def read_history(path: str | Path) -> dict[str, np.ndarray]:
    """The rows that a selector with ``history=path`` has appended so far, as ``selector.history.arrays()`` gives them.

    A row that a killed process has written in part is left out.

    Raises:
        LayerSelectError: the file is not there, or is no history.
    """
    path = Path(path)
    header, rows = _open(path)
    if header is None:
        raise LayerSelectError(f"there is no history at {str(path)!r}: pass the path that the selector got as history=")
    return {name: rows[name].copy() for name in rows.dtype.names or ()}


class HistoryFile:
    """The file of one run. Nothing is read or written before the first row, so that a resumed run finds what it left.

    Args:
        path: of the file; its folder is made when there is something to write.
        layer_names: the L layers.

    Raises:
        LayerSelectError: something else is at ``path``.
    """

    def __init__(self, path: str | Path, layer_names: Sequence[str]) -> None:
        self.path = user_path(path, "the file of the history")
        self._names = list(layer_names)
        self._dtype = _row(len(self._names))
        self._begun = False
        _open(self.path)

    def check_is_ours(self) -> None:
        """Checks that the rows of the file are those of this model's layers.

        Raises:
            LayerSelectError: the rows are those of other layers.
        """
        header, _ = _open(self.path)
        if header is not None and header["layer_names"] != self._names:
            raise LayerSelectError(
                f"the history at {str(self.path)!r} is of another model, with {len(header['layer_names'])} layers from "
                f"{header['layer_names'][0]!r} on: pass another path as history="
            )

    def keep_until(self, step: int) -> int:
        """Drops the rows of later steps, and one that was written in part: they will be written again.

        Returns:
            The last step in the file; -1 if there is none.

        Raises:
            LayerSelectError: the rows are those of other layers.
        """
        self.check_is_ours()
        header, rows = _open(self.path)
        if header is None:
            return -1
        steps = rows["step"]
        goes_on = (steps <= step) & (np.diff(steps, prepend=-1) > 0)  # behind a row that does not, none can be trusted
        kept = rows[: len(rows) if goes_on.all() else int(goes_on.argmin())]
        with self.path.open("r+b") as file:
            file.readline()
            file.truncate(file.tell() + kept.nbytes)
        self._begun = True
        return int(kept["step"][-1]) if len(kept) else -1

    def append(self, columns: Mapping[str, np.ndarray]) -> None:
        """Adds rows. The first ones of a run that was not resumed replace the file of an earlier one."""
        rows = np.empty(len(columns["step"]), self._dtype)
        for name, column in columns.items():
            rows[name] = column
        head = b""
        if not self._begun:
            if self.path.exists():
                logger.warning("the history of an earlier run at %s is replaced: nothing was resumed", self.path)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            head = json.dumps({_KEY: _VERSION, "layer_names": self._names}).encode() + b"\n"
        with self.path.open("ab" if self._begun else "wb") as file:
            file.write(head + rows.tobytes())
        self._begun = True

    def read(self) -> dict[str, np.ndarray]:
        """All rows; none before the first one was written."""
        if not self._begun:
            return {name: np.empty(0, self._dtype)[name] for name in self._dtype.names or ()}
        return read_history(self.path)


def _row(layers: int) -> np.dtype:
    return np.dtype(
        [
            ("step", "<i8"),
            ("scores", "<f4", (layers,)),
            ("mask", "?", (layers,)),
            ("trained", "?", (layers,)),
            ("threshold", "<f4"),
        ]
    )


def _open(path: Path) -> tuple[dict[str, Any] | None, np.ndarray]:
    """The header of a file, and its whole rows; ``None`` and no rows if there is no file."""
    try:
        content = read_bytes(path, advice="pass the path of a file", most=_MOST_BYTES)
    except DamagedFile as error:
        if error.missing:
            return None, np.empty(0, _row(0))
        raise LayerSelectError(
            f"history={str(path)!r} cannot be read ({error.why}): pass the path of a file"
        ) from error
    if not content:
        return None, np.empty(0, _row(0))
    first, _, rest = content.partition(b"\n")
    try:
        header = parse_json(first)
        check(Fields({_KEY: Anything()}), header)
        if header[_KEY] != _VERSION:
            raise LayerSelectError(
                f"the history at {str(path)!r} has version {shown(header[_KEY])} and this release reads {_VERSION}: "
                "pass another path"
            )
        check(_HEADER, header)
    except Mismatch as error:
        raise LayerSelectError(
            f"the file {str(path)!r} is no history of a selector ({error}): pass another path"
        ) from error
    dtype = _row(len(header["layer_names"]))
    return header, np.frombuffer(rest, dtype, count=len(rest) // dtype.itemsize)


def check_history(keep: Any) -> None:
    """Raises LayerSelectError unless ``keep`` is a number of steps or a path."""
    if (
        isinstance(keep, bool)
        or not isinstance(keep, (int, str, Path))
        or keep == ""
        or (isinstance(keep, int) and keep < 1)
    ):
        raise LayerSelectError(
            f"history={shown(keep)} is neither a number of steps of at least 1 nor the path of a file"
        )


def writes_files() -> bool:
    """Whether this process is the one that writes: the first of those that train together."""
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not there or torch.distributed.get_rank() == 0
