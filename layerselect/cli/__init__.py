"""The command line: one file per command, errors as one line, exit status 2 for what the user can fix."""

from .main import main

__all__ = ["main"]
