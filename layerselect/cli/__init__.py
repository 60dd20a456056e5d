"""The command line: one file per command, errors as one line, exit status 2 for what the user can fix."""

import sys

try:
    from .main import main
except KeyboardInterrupt:  # before there is anything that could be closed
    sys.stderr.write("\nlayerselect: interrupted\n")
    raise SystemExit(130) from None

__all__ = ["main"]
