"""Commands and options that had another name in an earlier version: taken, with a line that says the new one."""

from __future__ import annotations

from collections.abc import Sequence

from .streams import say

COMMANDS = {"trunk": "state-cache"}
OPTIONS = {
    "--trunk": "--state-cache",
    "--trunk-store": "--state-cache-store",
    "--trunk-memory": "--state-cache-memory",
    "--trunk-precision": "--state-cache-precision",
    "--probes": "--directions",
}


def with_new_names(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command line with every old name replaced."""
    found = []
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        new = COMMANDS.get(name) if place == 0 else OPTIONS.get(name)
        if new is not None:
            say(f"layerselect: {name} is called {new} now")
        found.append(argument if new is None else f"{new}{equals}{value}")
    return found
