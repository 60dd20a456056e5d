"""``layerselect demo``: the intention task on the demo corpus with the demo's small model."""

from __future__ import annotations

import argparse
from typing import Any

from .options import MOST_THREADS, add_common_options, add_setting, up_to


def add_command(commands: Any) -> None:
    """Adds the command ``demo`` and its options to the parser."""
    parser = commands.add_parser(
        "demo",
        help="train a small model on a small corpus, in about a minute",
        description="Makes a corpus from the package's own sentences and a small model, trains it by IR-Tuning to "
        "predict "
        "what each revision is for, and shows it beside the majority class and a logistic regression. Needs no "
        "download.",
        epilog="example:\n  layerselect demo --out demo-run\n\nThen open demo-run/report.html.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out",
        default="layerselect-demo",
        metavar="DIR",
        help="the folder of the run; an earlier run there is replaced (default: layerselect-demo)",
    )
    add_setting(parser, "--rule", "how layers are selected (see layerselect intent --help)", default="variance")
    add_setting(
        parser, "--mode", "what a selection does", default="auto", choices=("auto", "freeze", "gate", "observe")
    )
    add_setting(parser, "--seed", "of the training", default=0, kind=int, metavar="N")
    add_setting(parser, "--epochs", "passes over the training split", default=10, kind=float, metavar="N")
    add_setting(parser, "--device", "where to train", default="auto", choices=("auto", "cpu", "cuda"))
    # The model is so small that a second thread costs more than it brings, above all on a busy machine.
    parser.add_argument("--threads", type=up_to(MOST_THREADS), default=1, metavar="N", help="CPU threads (default: 1)")
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs ``layerselect demo`` and returns its exit code."""
    from ..tasks.intent.config import DEMO_DEFAULTS
    from .intent import train

    given = {name: vars(args)[name] for name in ("rule", "mode", "seed", "epochs", "device") if name in args}
    args.resume, args.overwrite = False, True
    return train({**DEMO_DEFAULTS, **given, "data": "demo", "model": "demo", "out": args.out}, args, hint="")
