"""The command line: one file per command, errors as one line, exit status 2 for what the user can fix."""

from .interrupts import held_back

with held_back():  # torch ends the process by itself when it is interrupted while it is loaded
    from .main import main

__all__ = ["main"]
