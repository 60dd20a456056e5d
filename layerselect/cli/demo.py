"""``layerselect demo``: the intention task on the demo corpus with the demo's small model."""

from __future__ import annotations

import argparse
from typing import Any

from .options import MOST_THREADS, add_common_options, up_to
from .settings import add_settings

#: The settings of the run that can be changed.
_SETTINGS = ("rule", "mode", "epochs", "seed", "device")


def add_command(commands: Any, *, whole: bool = True) -> None:
    """Adds the command ``demo`` to the parser; unless it is ``whole``, without its options."""
    parser = commands.add_parser(
        "demo",
        help="train a small model on a small corpus, in about a minute",
        description="Makes a corpus from the package's own sentences and a small model, trains it by IR-Tuning to "
        "predict what each revision is for, and shows it beside the majority class and a logistic regression. Needs no "
        "download.",
        epilog="example:\n  layerselect demo --out demo-run\n\nThen open demo-run/report.html.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if not whole:
        return
    parser.add_argument(
        "--out",
        default="layerselect-demo",
        metavar="DIR",
        help="the folder of the run; an earlier run there is replaced (default: layerselect-demo)",
    )
    from ..tasks.intent.config import DEMO_DEFAULTS, IntentConfig

    add_settings(
        parser,
        IntentConfig,
        only=_SETTINGS,
        defaults=DEMO_DEFAULTS,
        helps={"rule": "how layers are selected (see layerselect intent --help)"},
        group="options",
    )
    # The model is so small that a second thread costs more than it brings, above all on a busy machine.
    parser.add_argument("--threads", type=up_to(MOST_THREADS), default=1, metavar="N", help="CPU threads (default: 1)")
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs ``layerselect demo`` and returns its exit code."""
    from ..tasks.intent.config import DEMO_DEFAULTS
    from .intent import train

    given = {name: vars(args)[name] for name in _SETTINGS if name in args}
    args.resume, args.overwrite = False, True
    return train({**DEMO_DEFAULTS, **given, "data": "demo", "model": "demo", "out": args.out}, args, hint="")
