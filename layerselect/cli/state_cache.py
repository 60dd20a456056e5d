"""``layerselect state-cache``: what the store of hidden states holds, and clearing it."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import LayerSelectError
from ..utils.user_paths import user_path
from .options import add_common_options, add_json_option
from .streams import write_json

if TYPE_CHECKING:
    from ..state_cache.inventory import ShardInfo

_EXAMPLE = """\
examples:
  layerselect state-cache ls
  layerselect state-cache rm 3f09c2a1b7d4
  layerselect state-cache rm --all --store /scratch/states

A shard holds what a model's frozen layers make of each example. Nothing is lost by removing it: it is computed again.
"""


def add_command(commands: Any, *, whole: bool = True) -> None:
    """Adds the command ``state-cache`` to the parser; unless it is ``whole``, without its options."""
    parser = commands.add_parser(
        "state-cache",
        help="show or clear the stored hidden states of frozen layers",
        description="Looks at the store of hidden states that frozen layers make of each example, which later epochs "
        "and runs reuse.",
        epilog=_EXAMPLE,
    )
    if not whole:
        return
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=type(parser))
    ls = actions.add_parser(
        "ls", help="list the shards: model, cut, size, last use", description="Lists the shards of a store."
    )
    rm = actions.add_parser(
        "rm",
        help="remove shards",
        description="Removes shards: the files of the store and nothing else.",
        epilog=_EXAMPLE,
    )
    rm.add_argument("ids", nargs="*", metavar="ID", help="as listed, or the first digits of it")
    rm.add_argument("--all", dest="everything", action="store_true", help="remove every shard of the store")
    for action, run in ((ls, run_ls), (rm, run_rm)):
        action.add_argument(
            "--store",
            metavar="DIR",
            default=argparse.SUPPRESS,
            help="the store's folder (default: the one in the user's cache folder, or $LAYERSELECT_CACHE/states)",
        )
        add_json_option(action)
        add_common_options(action)
        action.set_defaults(run=run)


def run_ls(args: argparse.Namespace) -> int:
    """Runs ``layerselect state-cache ls`` and returns its exit code."""
    from ..state_cache.inventory import list_shards

    folder = _store(args)
    shards = list_shards(folder)
    if args.json:
        write_json({"folder": str(folder), "shards": shards})
    elif shards:
        _print_table(shards, folder)
    else:
        _say(f"the state store in {folder} is empty")
    return 0


def run_rm(args: argparse.Namespace) -> int:
    """Runs ``layerselect state-cache rm`` and returns its exit code."""
    from ..state_cache.inventory import remove_shards
    from ..utils.sizes import show_bytes

    if args.everything == bool(args.ids):
        raise LayerSelectError(
            "give the ids of the shards to remove ('layerselect state-cache ls' lists them), or --all"
        )
    folder = _store(args)
    removed = remove_shards(folder, args.ids, everything=args.everything)
    if args.json:
        write_json({"folder": str(folder), "removed": removed})
        return 0
    if not removed:
        _say(f"the state store in {folder} is empty")
        return 0
    for shard in removed:
        _say(f"removed {shard.id}: {_entries(shard.entries)}, {show_bytes(shard.bytes)}")
    _say(f"freed {show_bytes(sum(shard.bytes for shard in removed))} in {folder}")
    return 0


def _store(args: argparse.Namespace) -> Path:
    from ..state_cache.store import default_folder

    folder = user_path(args.store, "--store") if "store" in args else default_folder()
    if folder.exists() and not folder.is_dir():
        raise LayerSelectError(f"{str(folder)!r} is a file: give the folder of a state cache store with --store")
    return folder


def _print_table(shards: list[ShardInfo], folder: Path) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ..utils.sizes import show_bytes

    table = Table(title="Shards", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("id", no_wrap=True)
    table.add_column("model", overflow="fold")
    for name in ("cut", "layers"):
        table.add_column(name, justify="right")
    table.add_column("dtype")
    for name in ("entries", "size", "last used"):
        table.add_column(name, justify="right", no_wrap=True)
    for shard in shards:
        model, *facts = (str(shard.facts.get(name, "unknown")) for name in ("model", "cut", "layers", "dtype"))
        cells = [Path(model).name or model, *facts]  # of a folder or a hub id the last part is enough to know it by
        table.add_row(shard.id, *map(escape, cells), str(shard.entries), show_bytes(shard.bytes), _ago(shard.last_used))
    Console(file=sys.stdout).print(table)
    entries = _entries(sum(shard.entries for shard in shards))
    _say(f"{entries}, {show_bytes(sum(shard.bytes for shard in shards))} in {folder}")


def _say(line: str) -> None:
    from rich.console import Console
    from rich.markup import escape

    Console(file=sys.stdout).print(escape(line), highlight=False, soft_wrap=True)


def _entries(count: int) -> str:
    return f"{count} entr{'y' if count == 1 else 'ies'}"


def _ago(moment: float | None) -> str:
    """How long ago, for people."""
    if moment is None:
        return "unknown"
    seconds = max(0.0, time.time() - moment)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return "just now"
