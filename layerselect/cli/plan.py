"""``layerselect plan``: what each way of training takes of a card, before anything is downloaded."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from .options import add_common_options, add_json_option
from .settings import add_settings, given
from .streams import say, write_json

if TYPE_CHECKING:
    from ..tasks.plan import Plan

_EXAMPLE = """\
examples:
  layerselect plan --model ORG/NAME --gpu 24GB --batch-size 16 --max-length 256
  layerselect plan --model models/llama --task revise --gpu 80GB --quantize 4bit
  layerselect plan --model config.json --gpu 12GB --json | jq '.rows[] | select(.fits)'

Of a hub id only the configuration is read. Steps are run on tensors without contents, so a model of eight billion
weights takes less than a minute and less than a gigabyte.
"""


def add_command(commands: Any, *, whole: bool = True) -> None:
    """Adds the command ``plan`` to the parser; unless it is ``whole``, without its options."""
    parser = commands.add_parser(
        "plan",
        help="say what each way of training takes of a card, and what fits",
        description="Says from a model's configuration alone what each way of training would take: the bytes of "
        "weights, gradients, optimizer and activations, the peak, and the arithmetic of a step.",
        epilog=_EXAMPLE,
    )
    if not whole:
        return
    from ..tasks.plan.settings import PlanSettings

    add_settings(parser, PlanSettings)
    parser.add_argument("--page", metavar="FILE", help="also write a page (HTML) with the table and a drawing")
    add_json_option(parser)
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs ``layerselect plan`` and returns its exit code."""
    from ..models.load import quiet_transformers
    from ..tasks.plan import PlanSettings, make_plan
    from ..tasks.plan.words import held
    from ..utils.places import output_path
    from .progress import StageLine

    settings = PlanSettings(**given(args, PlanSettings))
    page = output_path(args.page, "--page", apart={"--model": args.model}) if args.page else None
    quiet_transformers()
    with StageLine() as line:
        line.begin("planning")
        plan = make_plan(settings, lambda row: line.facts(f"{row.way}, {held(row)}"))
    if page is not None:
        from ..tasks.plan.page import write_plan_page

        write_plan_page(page, plan)
    if args.json:
        write_json(asdict(plan))
    else:
        _print(plan)
    if page is not None:
        say(f"page: {page}")
    return 0


def _print(plan: Plan) -> None:
    from rich.console import Console
    from rich.markup import escape

    from ..tasks.plan.words import cells, columns_of, headline, held, notes, unit_of
    from .wide_table import Line, WideTable

    console = Console(file=sys.stdout)
    console.print(escape(headline(plan)), highlight=False)
    (first, *columns), unit = [column for column in columns_of(plan) if column.short], unit_of(plan)
    texts = [cells(row, unit, plan.settings.steps) for row in plan.rows]
    lines = [Line(text[first.key], [text[each.key] for each in columns]) for text in texts]
    table = WideTable(first.short, [each.short for each in columns], lines)
    for name, rows in groupby(zip(plan.rows, lines, strict=True), key=lambda pair: held(pair[0])):
        table.show(console, f"weights in {name} ({unit})", [line for _, line in rows])
    for note in notes(plan):
        console.print(escape(note), highlight=False)
