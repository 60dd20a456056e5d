"""What a selector has put on a model and its optimizers, and which selectors are open."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable
from typing import Protocol

from torch import nn

logger = logging.getLogger(__name__)


class Holdings:
    """Ends of what somebody holds, by name. They are called once, in their order, when the holder closes or is dropped.

    An end must not refer to the holder, which would then never be dropped.
    """

    def __init__(self) -> None:
        self._ends: dict[str, Callable[[], None]] = {}

    def hold(self, name: str, end: Callable[[], None]) -> None:
        """``end`` takes the place of an earlier one of that name, which is not called."""
        self._ends[name] = end

    def let_go(self) -> None:
        """Calls every end, also where one before it raises; the first error is raised when all are done."""
        ends, self._ends = self._ends, {}
        errors: list[Exception] = []
        for end in ends.values():
            try:
                end()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]


class Holder(Protocol):
    """A selector, as far as others must know it."""

    mode: str

    def held_parameters(self) -> list[nn.Parameter]: ...

    def close(self) -> None: ...


# Two selectors that both decide what trains undo each other's work, and the model does not tell that it has one: what
# is stored on a module or a parameter would be copied and saved with it.
_open: weakref.WeakSet[Holder] = weakref.WeakSet()


def register(holder: Holder) -> None:
    """``holder`` is open from now on."""
    _open.add(holder)


def unregister(holder: Holder) -> None:
    """Takes a closed selector off the list of the open ones."""
    _open.discard(holder)


def take_over(parameters: Iterable[nn.Parameter]) -> None:
    """Closes every open selector that decides about some of ``parameters``, and says so."""
    wanted = {id(p) for p in parameters}
    for holder in list(_open):
        if holder.mode != "observe" and any(id(p) in wanted for p in holder.held_parameters()):
            logger.warning(
                "another selector was still open on this model and is closed now (%s): call close() on a selector "
                "whose training has ended, or use it in a with statement",
                holder,
            )
            holder.close()
