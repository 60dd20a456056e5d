"""Several processes of one command: only one of them speaks."""

from __future__ import annotations

from contextlib import suppress

from ..errors import LayerSelectError
from ..utils.launch import check_launcher, is_first_of_launch, launched, launcher_store

#: Commands whose processes share the work, and one that writes nothing.
_OF_SEVERAL = ("intent", "revise", "run", "doctor")


def check_launch(command: str) -> None:
    """Checks that a command can be run by several processes, if it is.

    Raises:
        LayerSelectError: each of them would do all of it, or nothing can be made of what the launcher says.
    """
    if launched() > 1 and command not in _OF_SEVERAL:
        raise LayerSelectError(
            f"layerselect {command} is a command for one process, and {launched()} were started: start it without the "
            "launcher (intent, revise and run train in several)"
        )
    check_launcher()


def may_say_why() -> bool:
    """Whether this process is the one to say what has gone wrong: the first one that asks, of those that a launcher
    started together. Where they cannot be asked, each of them.
    """
    with suppress(Exception):  # whatever is wrong with the store, somebody must speak
        store = launcher_store()
        return store is None or store.add("said", 1) == 1
    return True


def shows() -> bool:
    """Whether this process shows what is being done."""
    return is_first_of_launch()
