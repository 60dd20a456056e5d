"""``layerselect compare``: methods x seeds on one corpus, one table of quality, time and memory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.folders import new_file
from ..utils.options import options_of
from .options import add_common_options, add_dry_run_option, add_json_option
from .settings import (
    JOB_SETTINGS,
    add_config_option,
    add_preset_option,
    add_settings,
    chosen_settings,
    given,
    heading,
)
from .streams import write_json

if TYPE_CHECKING:
    from ..tasks.compare import CompareConfig, Comparison

_EXAMPLE = """\
examples:
  layerselect compare --data demo --model demo --methods all,ir,random --seeds 2 --out runs/compare
  layerselect compare --data iterater-sent:PATH --model PATH --methods all,ir,top-half,head --folds 5 --seeds 2 \\
      --jobs 2 --out runs/iterater
  layerselect compare --out runs/iterater --add lisa,ir/dora,all/lora@pair,all/lora@10%
  layerselect compare --show runs/iterater runs/argrewrite
  layerselect compare --task revise --data iterater-sent:PATH --splits official --model PATH --max-steps 60 \\
      --methods all,ir,transfer-all,intention-tuning,intention-tuning/dora --seeds 2 --out runs/revise

Each run is one of 'layerselect intent' or, with --task revise, 'layerselect revise', in a process of its own; rows that
start from a predictor share one for each adapter, seed and fold. With --folds every row of the corpus is tested once.
What is finished in --out is kept when the command is repeated, also with more methods or seeds; what failed is tried
again. The folder then holds table.md, table.csv, report.html, runs/ and, for each run, its predictions as numbers in
kept/. Of compare.json and kept/, which hold no text, '--show' makes the tables anywhere, and '--add' goes on.
"""

_HELPS = {
    "data": "as for 'layerselect intent'",
    "model": "a model folder, a hub id, or 'demo'",
    "out": "the folder of the comparison; what is finished in it is kept",
}
#: A comparison publishes none of its runs.
_OF_ONE_RUN = ("push_to_hub", "hub_model_id")
_METHODS = {"intent": "all,ir,random,top-half,head", "revise": "all,ir,transfer-all,intention-tuning"}


def add_command(commands: Any, *, whole: bool = True) -> None:
    """Adds the command ``compare`` to the parser; unless it is ``whole``, without its options."""
    parser = commands.add_parser(
        "compare",
        help="compare selection methods on a corpus",
        description="Trains every method with every seed on one corpus and prints one table: quality, time and memory "
        "with their spreads, and whether each row is better than plain fine-tuning, worse, as good, or undecided.",
        epilog=_EXAMPLE,
    )
    if not whole:
        return
    from ..tasks.compare.settings import COMPARISON, INTENT_DEFAULTS, CompareSettings
    from ..tasks.intent.config import IntentConfig
    from ..tasks.revise.config import ReviseConfig

    add_settings(parser, CompareSettings, only=("task",))
    add_settings(parser, IntentConfig, only=("data", "model", "out"), helps=_HELPS, group=COMPARISON, required=False)
    job = heading(parser, COMPARISON)
    add_config_option(job)
    add_preset_option(job)
    job.add_argument(
        "--methods",
        metavar="LIST",
        help="all, ir, ir-held, lisa, ist, random, block-cyclic, cosine, weight-norm, probe-once, cost-aware, "
        "budget, budget-cached, top-half, head (intent), intention-tuning, transfer-all (revise), paper (the rows of "
        "the papers), or rules as for 'layerselect intent --rule'; METHOD/ADAPTER for one with another adapter; behind "
        "it @FORMAT and @N or @P%% for another format or size of the training split, @words for --offset words, and "
        f"@blend for --blend auto (default: {_METHODS['intent']}; for revise {_METHODS['revise']})",
    )
    job.add_argument(
        "--add",
        metavar="LIST",
        help="add rows, as for --methods, to the comparison in --out and train what it lacks; its settings need not be "
        "repeated, and --seeds N makes its seeds more",
    )
    job.add_argument(
        "--show",
        metavar="DIR",
        nargs="+",
        help="train nothing and print the table of the comparison in DIR, or one table of several; --out writes it",
    )
    job.add_argument(
        "--choices",
        metavar="LIST",
        help="with --show: how far the layers that somebody chose are behind the best row; files or folders of "
        "placements ('layerselect pilot', 'layerselect card place') and names of rows, separated by commas",
    )
    job.add_argument(
        "--adapters",
        metavar="LIST",
        help="every method is run with each of these (default: lora; of the demo model: none)",
    )
    job.add_argument(
        "--adapter-lr",
        type=_rate_of,
        action="append",
        default=[],
        metavar="NAME=X",
        help="learning rate of the rows with this adapter, instead of --lr; may be repeated",
    )
    add_settings(parser, CompareSettings, leave_out=("task",))
    add_settings(parser, IntentConfig, only=("device",), group=COMPARISON)
    add_dry_run_option(job)
    add_json_option(job)
    job.add_argument("--overwrite", action="store_true", help="drop a comparison with other settings in --out")
    add_common_options(parser)
    own = (*JOB_SETTINGS, "rule", "adapter", "fold", *_OF_ONE_RUN)
    add_settings(parser, IntentConfig, leave_out=own, defaults=INTENT_DEFAULTS)
    shared = [field.name for field, _ in options_of(IntentConfig)]
    add_settings(parser, ReviseConfig, leave_out=(*shared, "predictor", "transfer", "untrained"))
    parser.set_defaults(run=run, not_of_runs=tuple(INTENT_DEFAULTS))


def _rate_of(text: str) -> tuple[str, float]:
    """``none=2e-4`` as a pair."""
    name, equals, value = text.partition("=")
    try:
        return name, float(value if equals else "")
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=NUMBER, as in none=2e-4") from None


def run(args: argparse.Namespace) -> int:
    """Runs ``layerselect compare`` and returns its exit code."""
    from ..errors import LayerSelectError
    from ..tasks.compare import run_compare
    from ..tasks.compare.run import plan_compare
    from .compare_display import RunDisplay, compare_plan_lines
    from .dry_run import print_plan

    if args.show:
        return _show(args)
    if args.choices is not None:
        raise LayerSelectError("--choices is of a comparison that is shown: give its folder with --show")
    config = _config(args)
    if args.dry_run:
        plan = plan_compare(config, overwrite=args.overwrite)
        print_plan(plan, compare_plan_lines(plan), args)
        return 0
    args.interrupted_hint = "; what is finished is kept, continue with the same command"
    with RunDisplay() as display:
        comparison = run_compare(config, overwrite=args.overwrite, on_event=display)
    _finish(comparison, Path(comparison.folder), args)
    return 1 if comparison.failed else 0


def _config(args: argparse.Namespace) -> CompareConfig:
    """The comparison that the options describe, or that of a folder with rows added."""
    from ..errors import LayerSelectError
    from ..tasks.compare import TASKS, CompareConfig
    from ..tasks.compare.config import VARIED
    from ..tasks.compare.methods import split_list
    from ..tasks.compare.settings import MAKES_RUNS, CompareSettings
    from ..tasks.compare.state import saved_config
    from ..tasks.intent.config import IntentConfig
    from ..tasks.revise.config import ReviseConfig
    from ..tasks.run.settings import PLACES
    from ..utils.user_paths import user_path

    own, base = given(args, CompareSettings), given(args, IntentConfig, ReviseConfig)
    needed = ("out",) if args.add is not None else ("data", "model", "out")
    missing = [f"--{name}" for name in needed if name not in base]
    if missing:
        raise LayerSelectError(
            f"{', '.join(missing)} must be given"
            + ("" if args.add is not None else "; only --add and --show go on from what is in a folder")
        )
    if args.add is not None:
        fixed = sorted({*base} - {*PLACES} | {*own} & {*MAKES_RUNS})
        options = ("methods", "adapters", "adapter_lr", "preset", "overwrite")
        fixed += [name for name in options if getattr(args, name)]
        if fixed:
            named = f"--{fixed[0].replace('_', '-')}"
            raise LayerSelectError(f"--add takes the settings of the comparison in --out: leave out {named}")
        places = {name: value for name, value in base.items() if name != "out"}
        return saved_config(user_path(base["out"], "--out"), add=split_list(args.add), places=places, **own)
    task = own.get("task", "intent")
    kind = TASKS[task]
    # What a comparison varies is dropped where a preset says it, and refused where it was given.
    presets = {k: v for k, v in chosen_settings(args, task, kind.config).items() if k not in base}
    adapter = presets.get("adapter", "lora")
    return CompareConfig(
        out=base.pop("out"),
        base={**{k: v for k, v in presets.items() if k not in (*VARIED, *kind.varied)}, **base},
        methods=tuple(split_list(args.methods or _METHODS[task])),
        adapters=tuple(split_list(args.adapters or adapter)),
        adapter_lr=dict(args.adapter_lr),
        **own,
    )


def _show(args: argparse.Namespace) -> int:
    """Prints what is kept of one comparison, or of several in one table."""
    from ..errors import LayerSelectError
    from ..tasks.compare import read_comparison
    from ..tasks.compare.settings import MAKES_RUNS, TRAINS, CompareSettings
    from ..tasks.compare.several import several_table
    from ..tasks.compare.state import saved_config
    from ..tasks.intent.config import IntentConfig
    from ..tasks.revise.config import ReviseConfig
    from ..utils.user_paths import user_path
    from .compare_display import print_several

    own, base = given(args, CompareSettings), given(args, IntentConfig, ReviseConfig)
    unused = sorted({*base} - {"out"} | {*own} & {*MAKES_RUNS, *TRAINS})
    if unused:
        name = unused[0].replace("_", "-")
        raise LayerSelectError(f"--{name} has no place beside --show, which trains nothing: leave it out")
    out = user_path(base["out"], "--out") if "out" in base else None
    found = [read_comparison(saved_config(user_path(folder, "--show"), **own)) for folder in args.show]
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    if args.choices is not None:
        return _show_choices(found, out, args)
    if len(found) == 1:
        _finish(found[0], out, args)
        return 0
    table = several_table(found)
    if out is not None:
        _write(out / "table.md", table.markdown())
    if args.json:
        write_json(table)
    else:
        print_several(table)
    return 0


def _show_choices(found: list[Comparison], out: Path | None, args: argparse.Namespace) -> int:
    """Prints how far what was chosen is behind the best row of a comparison."""
    from dataclasses import asdict

    from ..errors import LayerSelectError
    from ..tasks.compare.choices import choice_table, choices_of
    from ..tasks.compare.methods import split_list
    from .compare_display import print_choices

    if len(found) > 1:
        raise LayerSelectError("--choices is of one comparison: give --show one folder")
    choices = choices_of(found[0], split_list(args.choices))
    table = choice_table(choices, found[0])
    if out is not None:
        _write(out / "choices.md", table.markdown())
    if args.json:
        write_json({"folder": str(found[0].folder), "choices": [asdict(each) for each in choices]})
    else:
        print_choices(table)
    return 0


def _finish(comparison: Comparison, folder: Path | None, args: argparse.Namespace) -> None:
    """Prints a comparison and writes its tables and its page, if a folder takes them."""
    from ..report.compare import write_compare_report
    from ..tasks.compare import compare_report, comparison_rows, csv_table, markdown_table
    from ..tasks.compare.edits import edits_markdown, edits_of_rows
    from .compare_display import print_comparison

    rows = comparison_rows(comparison)
    if folder is not None:
        tables = [markdown_table(comparison, rows), edits_markdown(comparison)]
        _write(folder / "table.md", "\n".join(filter(None, tables)))
        _write(folder / "table.csv", csv_table(comparison.config.kind, rows))
        write_compare_report(folder / "report.html", compare_report(comparison, rows))
    if args.json:
        found = {"folder": str(folder or comparison.folder), "split": comparison.split, "rows": rows}
        write_json({**found, **({"edits": edits} if (edits := edits_of_rows(comparison)) else {})})
    else:
        print_comparison(comparison, rows, folder)


def _write(path: Path, text: str) -> None:
    with new_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8")
