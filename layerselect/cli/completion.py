"""``layerselect completion``: a script with which a shell completes commands and options."""

from __future__ import annotations

import argparse
from typing import Any

from .options import add_common_options
from .streams import write_data

_EXAMPLE = """\
examples:
  layerselect completion bash > ~/.local/share/bash-completion/completions/layerselect
  layerselect completion zsh > ~/.zfunc/_layerselect
"""

SHELLS = ("bash", "zsh")


def add_command(commands: Any, *, whole: bool = True) -> None:
    """Adds the command ``completion`` to the parser; unless it is ``whole``, without its options."""
    parser = commands.add_parser(
        "completion",
        help="print a completion script for a shell",
        description="Prints a script with which a shell completes the commands and options of layerselect.",
        epilog=_EXAMPLE,
    )
    if not whole:
        return
    parser.add_argument("shell", choices=SHELLS, help="the shell that is to complete")
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs ``layerselect completion`` and returns its exit code."""
    import shtab

    write_data(shtab.complete(args.build_parser(), args.shell))
    return 0
