"""``layerselect compare``: methods x seeds on one corpus, one table of quality, time and memory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .intent import add_settings
from .options import MOST_THREADS, add_common_options, add_model_option, add_output_option, up_to
from .revise import add_own_settings as add_revise_settings
from .settings import SettingGroups

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

_METHODS = {"intent": "all,ir,random,top-half,head", "revise": "all,ir,transfer-all,intention-tuning"}

_OWN = (
    "run",
    "command",
    "verbose",
    "threads",
    "overwrite",
    "interrupted_hint",
    "task",
    "methods",
    "adapters",
    "adapter_lr",
    "seeds",
    "jobs",
    "reference",
    "split",
    "bootstrap",
    "out",
)


def add_command(commands: Any) -> None:
    """Adds the command ``compare`` and its options to the parser."""
    parser = commands.add_parser(
        "compare",
        help="compare selection methods on a corpus",
        description="Trains every method with every seed on one corpus and prints one table: quality, time and "
        "memory with their "
        "spreads, and whether a difference to plain fine-tuning is shown.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    job = parser.add_argument_group("the comparison")
    job.add_argument(
        "--task",
        choices=("intent", "revise"),
        default="intent",
        help="what is trained: predictors of intentions, or writers of revisions (default: intent)",
    )
    job.add_argument("--data", required=True, metavar="CORPUS", help="as for 'layerselect intent'")
    add_model_option(job, "a model folder, a hub id, or 'demo'")
    add_output_option(job, "the folder of the comparison; what is finished in it is kept")
    job.add_argument(
        "--methods",
        metavar="LIST",
        help="all, ir, lisa, ist, random, block-cyclic, cosine, weight-norm, probe-once, cost-aware, top-half, head "
        "(intent), "
        "intention-tuning, transfer-all (revise), or rules as for 'layerselect intent --rule'; METHOD/ADAPTER for "
        f"one with another adapter (default: {_METHODS['intent']}; for revise {_METHODS['revise']})",
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
    job.add_argument("--seeds", type=up_to(1000), default=3, metavar="N", help="seeds 0 to N - 1 (default: 3)")
    job.add_argument("--reference", metavar="METHOD", help="what the others are tested against (default: all)")
    job.add_argument("--split", metavar="NAME", help="the split in the table (default: test, or validation)")
    job.add_argument(
        "--bootstrap", type=up_to(1_000_000), default=2000, metavar="N", help="samples of the test (default: 2000)"
    )
    job.add_argument(
        "--jobs", type=up_to(MOST_THREADS), default=1, metavar="N", help="runs at the same time (default: 1)"
    )
    job.add_argument(
        "--threads", type=up_to(MOST_THREADS), metavar="N", help="CPU threads of a run (default: cores / jobs)"
    )
    job.add_argument("--device", choices=("auto", "cpu", "cuda"), default=argparse.SUPPRESS, help="where to train")
    job.add_argument("--overwrite", action="store_true", help="drop a comparison with other settings in --out")
    add_common_options(parser)
    add_settings(parser, leave_out=("--rule", "--adapter"))
    add_revise_settings(SettingGroups(parser, leave_out=("--from", "--transfer", "--untrained")))
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
    from ..tasks.intent.config import DEMO_DEFAULTS as INTENT_DEMO
    from ..tasks.revise.config import DEMO_DEFAULTS as REVISE_DEMO
    from .compare_display import RunDisplay, print_comparison

    demo = {"intent": INTENT_DEMO, "revise": REVISE_DEMO}
    presets = dict(demo[args.task]) if args.model == "demo" else {}
    adapter = presets.pop("adapter", "lora")
    settings = {name: value for name, value in vars(args).items() if name not in _OWN}
    config = CompareConfig(
        out=args.out,
        base={**presets, **settings},
        methods=tuple(split_list(args.methods or _METHODS[args.task])),
        adapters=tuple(split_list(args.adapters or adapter)),
        adapter_lr=dict(args.adapter_lr),
        task=args.task,
        seeds=args.seeds,
        jobs=args.jobs,
        threads=args.threads,
        reference=args.reference,
        split=args.split,
        bootstrap=args.bootstrap,
    )
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
    print_comparison(comparison, rows)
    return 1 if comparison.failed else 0
