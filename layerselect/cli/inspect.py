"""``layerselect inspect``: shows a finished run in the terminal."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from .options import add_common_options, add_json_option, whole
from .streams import write_json

if TYPE_CHECKING:
    from rich.console import Console

    from ..tasks.inspect.finished import Finished

_EXAMPLE = """\
examples:
  layerselect inspect runs/first
  layerselect inspect runs/first --mistakes 20 --split test
  layerselect inspect runs/first --json | jq .layers
"""

#: Settings that tell one run from another at first sight.
_SHOWN = (
    "data",
    "model",
    "adapter",
    "rule",
    "mode",
    "head",
    "transfer",
    "format",
    "offset",
    "blend",
    "lr",
    "batch_size",
    "epochs",
)
#: Of these, what is not worth a word.
_UNSAID = {"offset": "none", "blend": "auto"}


def add_command(commands: Any, *, whole: bool = True) -> None:
    """Adds the command ``inspect`` to the parser; unless it is ``whole``, without its options."""
    parser = commands.add_parser(
        "inspect",
        help="show a finished run: results, layers, what it got wrong",
        description="Shows a finished run of 'layerselect intent' or 'revise': its results, what became of each layer, "
        "what the selection cost, and the examples that it got wrong with their texts.",
        epilog=_EXAMPLE,
    )
    if not whole:
        return
    parser.add_argument("folder", metavar="RUN", help="the --out folder of a finished run")
    parser.add_argument(
        "--mistakes", type=_count, default=5, metavar="N", help="show the N worst predictions (default: 5; 0: none)"
    )
    parser.add_argument("--split", metavar="NAME", help="the split that they are of (default: the last one)")
    add_json_option(parser)
    add_common_options(parser)
    parser.set_defaults(run=run)


def _count(text: str) -> int:
    value = whole(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} must not be negative")
    return value


def run(args: argparse.Namespace) -> int:
    """Runs ``layerselect inspect`` and returns its exit code."""
    from rich.console import Console

    from ..tasks.inspect.finished import mistakes, read_finished
    from .display import print_next, print_scores, print_training
    from .revise_display import print_revision_scores

    found = read_finished(args.folder)
    split = args.split or found.result.splits[-1].split
    wrong = mistakes(found, split, args.mistakes) if args.mistakes else []
    if args.json:
        write_json({**found.as_dict(), "mistakes": wrong})
        return 0
    console = Console(file=sys.stdout)
    _print_settings(console, found)
    (print_scores if found.task == "intent" else print_revision_scores)(console, found.result)
    _print_layers(console, found)
    print_training(console, found.result.training)
    _print_mistakes(console, found, split, wrong)
    print_next(console, found.task, found.folder)
    return 0


def _print_settings(console: Console, found: Finished) -> None:
    from rich.markup import escape

    values = {name: found.settings.get(name) for name in _SHOWN}
    shown = [f"{name} {value}" for name, value in values.items() if value is not None and _UNSAID.get(name) != value]
    console.print(f"layerselect {found.task}, {escape(', '.join(shown))}", highlight=False, soft_wrap=True)


def _print_layers(console: Console, found: Finished) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Layers, in forward order", title_justify="left")
    table.add_column("layer", overflow="fold")
    for name in ("selected", "trained", "mean score"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in found.layers:
        score = "–" if layer.score is None else f"{layer.score:.4g}"
        table.add_row(escape(layer.name), f"{layer.selected:.0%}", f"{layer.trained:.0%}", score)
    console.print(table)


def _print_mistakes(console: Console, found: Finished, split: str, wrong: list[dict[str, Any]]) -> None:
    from rich.markup import escape

    if not wrong:
        return
    title = "surest mistakes" if found.task == "intent" else "revisions with the lowest SARI"
    console.print(f"\nThe {title} on {escape(split)}", style="bold", highlight=False)
    for line in wrong:
        console.print()
        for text in _lines_of(line):
            console.print(escape(text), highlight=False, soft_wrap=True)
    console.print()


def _lines_of(line: dict[str, Any]) -> list[str]:
    """One prediction beside the truth."""
    if "prediction" in line:
        wanted = ", ".join(line["intentions"])
        return [
            f"{line['id']} ({wanted}), SARI {line['scores']['sari']:.1f}",
            f"  source:    {line['source']}",
            *(f"  reference: {text}" for text in line["references"]),
            f"  written:   {line['prediction']}",
        ]
    scores = line["scores"]
    chosen = ", ".join(f"{label} ({scores.get(label, 0.0):.2f})" for label in line["predicted"]) or "nothing"
    texts = [f"  {name + ':':7} {line[name]}" for name in ("before", "after") if name in line]
    return [f"{line['id']}: {chosen}, and it is {', '.join(line['labels']) or 'nothing'}", *texts]
