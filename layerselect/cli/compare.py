"""``layerselect compare``: methods x seeds on one corpus, one table of quality, time and memory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..utils.options import options_of
from .options import add_common_options, add_dry_run_option, add_json_option
from .settings import JOB_SETTINGS, add_config_option, add_settings, given, heading
from .streams import write_json

_EXAMPLE = """\
examples:
  layerselect compare --data demo --model demo --methods all,ir,random --seeds 2 --out runs/compare
  layerselect compare --task revise --data iterater-sent:PATH --splits official --model PATH --max-steps 60 \\
      --methods all,ir,transfer-all,intention-tuning,intention-tuning/dora --seeds 1 --out runs/revise
  layerselect compare --data iterater-sent:PATH --splits official --model PATH --max-steps 150 --eval-steps 15 \\
      --methods all,ir,lisa,top-half,head,ir/dora,ir/bottleneck --seeds 3 --jobs 2 --out runs/iterater

Each run is one of 'layerselect intent', in a process of its own. What is finished in --out is kept when the command is
repeated, also with more methods or seeds; what failed is tried again. The folder then holds table.md, table.csv,
report.html and runs/.

With --task revise each run is one of 'layerselect revise', whose --help tells its defaults; rows that start from a
predictor share one for each adapter and seed.
"""

_HELPS = {
    "data": "as for 'layerselect intent'",
    "model": "a model folder, a hub id, or 'demo'",
    "out": "the folder of the comparison; what is finished in it is kept",
}
_METHODS = {"intent": "all,ir,random,top-half,head", "revise": "all,ir,transfer-all,intention-tuning"}


def add_command(commands: Any, *, whole: bool = True) -> None:
    """Adds the command ``compare`` to the parser; unless it is ``whole``, without its options."""
    parser = commands.add_parser(
        "compare",
        help="compare selection methods on a corpus",
        description="Trains every method with every seed on one corpus and prints one table: quality, time and "
        "memory with their spreads, and whether a difference to plain fine-tuning is shown.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if not whole:
        return
    from ..tasks.compare.settings import COMPARISON, CompareSettings
    from ..tasks.intent.config import IntentConfig
    from ..tasks.revise.config import ReviseConfig

    add_settings(parser, CompareSettings, only=("task",))
    add_settings(parser, IntentConfig, only=("data", "model", "out"), helps=_HELPS, group=COMPARISON)
    job = heading(parser, COMPARISON)
    add_config_option(job)
    job.add_argument(
        "--methods",
        metavar="LIST",
        help="all, ir, lisa, ist, random, block-cyclic, cosine, weight-norm, probe-once, cost-aware, top-half, head "
        "(intent), intention-tuning, transfer-all (revise), or rules as for 'layerselect intent --rule'; "
        f"METHOD/ADAPTER for one with another adapter (default: {_METHODS['intent']}; for revise {_METHODS['revise']})",
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
    add_settings(parser, IntentConfig, leave_out=(*JOB_SETTINGS, "rule", "adapter"))
    shared = [field.name for field, _ in options_of(IntentConfig)]
    add_settings(parser, ReviseConfig, leave_out=(*shared, "predictor", "transfer", "untrained"))
    parser.set_defaults(run=run)


def _rate_of(text: str) -> tuple[str, float]:
    """``none=2e-4`` as a pair."""
    name, equals, value = text.partition("=")
    try:
        return name, float(value if equals else "")
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=NUMBER, as in none=2e-4") from None


def run(args: argparse.Namespace) -> int:
    """Runs ``layerselect compare`` and returns its exit code."""
    from ..report.compare import write_compare_report
    from ..tasks.compare import CompareConfig, compare_report, comparison_rows, csv_table, markdown_table, run_compare
    from ..tasks.compare.methods import split_list
    from ..tasks.compare.run import plan_compare
    from ..tasks.compare.settings import CompareSettings
    from ..tasks.intent.config import DEMO_DEFAULTS as INTENT_DEMO
    from ..tasks.intent.config import IntentConfig
    from ..tasks.revise.config import DEMO_DEFAULTS as REVISE_DEMO
    from ..tasks.revise.config import ReviseConfig
    from .compare_display import RunDisplay, print_compare_plan, print_comparison

    own, base = given(args, CompareSettings), given(args, IntentConfig, ReviseConfig)
    task = own.get("task", "intent")
    presets = dict({"intent": INTENT_DEMO, "revise": REVISE_DEMO}[task]) if args.model == "demo" else {}
    adapter = presets.pop("adapter", "lora")
    config = CompareConfig(
        out=base.pop("out"),
        base={**presets, **base},
        methods=tuple(split_list(args.methods or _METHODS[task])),
        adapters=tuple(split_list(args.adapters or adapter)),
        adapter_lr=dict(args.adapter_lr),
        **own,
    )
    if args.dry_run:
        print_compare_plan(plan_compare(config, overwrite=args.overwrite), args)
        return 0
    args.interrupted_hint = "; what is finished is kept, continue with the same command"
    with RunDisplay() as display:
        comparison = run_compare(config, overwrite=args.overwrite, on_event=display)
    rows = comparison_rows(comparison)
    folder = Path(comparison.folder)
    for name, text in (("table.md", markdown_table(comparison, rows)), ("table.csv", csv_table(config.kind, rows))):
        aside = folder / f"{name}.new"
        aside.write_text(text, encoding="utf-8")
        aside.replace(folder / name)
    write_compare_report(folder / "report.html", compare_report(comparison, rows))
    if args.json:
        write_json({"folder": str(folder), "split": comparison.split, "rows": rows})
    else:
        print_comparison(comparison, rows)
    return 1 if comparison.failed else 0
