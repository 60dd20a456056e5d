"""What a command would do: ``--dry-run`` of every command that trains or measures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

from .streams import write_json


def print_plan(plan: Mapping[str, Any], lines: Mapping[str, str], args: argparse.Namespace) -> None:
    """The plan for programs, or its place and then its lines for people.

    Args:
        plan: has ``out``, and ``state`` where what is there decides what is done.
        lines: what else is to be said, each with its heading.
    """
    if args.json:
        write_json(plan)
        return
    state = plan.get("state")
    marks = [*([state] if state else []), *(["nothing is written now"] if state != "finished" else [])]
    console = Console(file=sys.stdout)
    for heading, text in {"out": f"{plan['out']} ({'; '.join(marks)})", **lines}.items():
        console.print(escape(f"{heading}: {text}"), highlight=False, soft_wrap=True)
