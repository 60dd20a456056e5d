"""``layerselect card``: measures which layers are worth an adapter. ``layerselect card diff`` compares two cards."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import LayerSelectError
from .options import (
    add_common_options,
    add_model_option,
    add_output_option,
    add_setting,
    add_threads_option,
    apply_threads,
    positive,
)
from .settings import SettingGroups

_EXAMPLE = """\
examples:
  layerselect card --data demo --model demo --out cards/demo
  layerselect card --data iterater-sent:PATH --splits official --model PATH --out cards/iterater
  layerselect card --data iterater-sent:PATH --model PATH --task revise --examples 64 --batch-size 4 --out cards/revise
  layerselect card diff cards/one cards/other

The folder given with --out holds card.json, card.png, card.html and config.json. Train by a card with
'layerselect intent --rule "layer-card:card=\\"cards/iterater\\";k=4"', or put card.place(k=4) into peft.LoraConfig.
"""

#: Options of the job and of the measurement, which are not settings of the task.
_MEASURED = {
    "ridge": "ridge",
    "probes": "probes",
    "targets": "targets",
    "lora_rank": "rank",
    "adapt_steps": "adapt_steps",
}
_JOB = ("examples", "head_steps", "max_memory")
_OWN = ("run", "command", "action", "verbose", "threads", "overwrite", "task", "times", "interrupted_hint")


def add_command(commands: Any) -> None:
    """Adds the command ``card`` and its options to the parser."""
    parser = commands.add_parser(
        "card",
        help="measure which layers are worth an adapter",
        description="Measures a model on a sample of a task and says, before any fine-tuning, how much each layer "
        "can correct, which "
        "layers do the same, what each costs, and where adapters should go (Layer Card).",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    job = parser.add_argument_group("the job")
    job.add_argument("--data", metavar="CORPUS", help="as for 'layerselect intent'")
    add_model_option(job, "a model folder, a hub id, or 'demo'", required=False)
    add_output_option(job, "the folder that the card becomes", required=False)
    job.add_argument(
        "--task", choices=("intent", "revise"), default="intent", help="what the sample is of (default: intent)"
    )
    job.add_argument("--overwrite", action="store_true", help="replace an earlier card at --out (no other folder)")
    add_setting(job, "--seed", "of everything random", default=0, kind=int, metavar="N")
    add_setting(job, "--device", "where to measure", default="auto", choices=("auto", "cpu", "cuda"))
    add_threads_option(job)
    add_common_options(parser)
    groups = SettingGroups(parser, leave_out=("--holdout",))
    groups.corpus()
    text = parser.add_argument_group("what the model reads")
    add_setting(text, "--format", "intent: as for 'layerselect intent'", default="edits", metavar="NAME")
    add_setting(
        text, "--head", "intent: classifier or generate", default="classifier", choices=("classifier", "generate")
    )
    add_setting(
        text, "--max-length", "longer inputs are cut, in tokens (default: 64; revise: 256)", kind=int, metavar="N"
    )
    measured = parser.add_argument_group("how it is measured")
    add_setting(
        measured,
        "--examples",
        "of the training split; a third of the batches only checks what was found on the others",
        default=256,
        kind=positive,
        metavar="N",
    )
    add_setting(measured, "--batch-size", "examples at a time (default: 16; revise: 8)", kind=positive, metavar="N")
    add_setting(
        measured,
        "--head-steps",
        "train a fresh head for so many steps first, on other examples",
        default=100,
        kind=int,
        metavar="N",
    )
    add_setting(
        measured,
        "--max-memory",
        "for what is held besides the model; more sweeps if it is little",
        default="4GB",
        metavar="SIZE",
    )
    add_setting(
        measured, "--targets", "which linear maps of a layer: a regular expression for their names in it", metavar="RE"
    )
    add_setting(
        measured,
        "--ridge",
        "what inputs must carry to count, in activation energies",
        default=0.001,
        kind=float,
        metavar="X",
    )
    add_setting(measured, "--probes", "random directions for the coupling", default=2, kind=positive, metavar="N")
    add_setting(
        measured, "--lora-rank", "of the adapter that costs are given for", default=16, kind=positive, metavar="N"
    )
    add_setting(
        measured, "--adapt-steps", "also adapt each layer alone for so many steps", default=0, kind=int, metavar="N"
    )
    measured.add_argument(
        "--no-times",
        dest="times",
        action="store_false",
        help="count costs instead of measuring them, so that the card is the same on every run",
    )
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", metavar="[diff]", required=False, parser_class=type(parser))
    diff = actions.add_parser(
        "diff",
        help="compare two cards",
        description="Compares two cards of the same layers: the order of the layers, which "
        "of them are best, the coupling.",
    )
    diff.add_argument("cards", nargs=2, metavar="CARD", help="a folder of 'layerselect card', or its card.json")
    add_common_options(diff)
    diff.set_defaults(run=run_diff)


def run(args: argparse.Namespace) -> int:
    """Runs ``layerselect card`` and returns its exit code."""
    for name in ("data", "model", "out"):
        if getattr(args, name) is None:
            raise LayerSelectError(f"layerselect card: --{name} is missing (see layerselect card --help)")
    from ..models.load import quiet_transformers
    from ..tasks.card.run import CardJob, run_card
    from ..tasks.intent.config import DEMO_DEFAULTS, IntentConfig
    from ..tasks.revise.config import DEMO_DEFAULTS as REVISE_DEMO
    from ..tasks.revise.config import ReviseConfig
    from .card_display import CardDisplay, print_card

    given = {name: value for name, value in vars(args).items() if name not in _OWN}
    options = {own: given.pop(name) for name, own in _MEASURED.items() if name in given}
    job = {name: given.pop(name) for name in _JOB if name in given}
    demo = args.model == "demo"
    if args.task == "revise":
        for name in ("format", "head"):
            if name in given:
                raise LayerSelectError(f"--{name} belongs to --task intent: leave it out")
        settings: Any = ReviseConfig(**{**(REVISE_DEMO if demo else {}), **given})
    else:
        settings = IntentConfig(**{**(DEMO_DEFAULTS if demo else {}), **given})
    apply_threads(args.threads)
    quiet_transformers()
    with CardDisplay() as display:
        card, folder = run_card(
            CardJob(settings, overwrite=args.overwrite, options={**options, "timed": args.times}, **job),
            on_event=display,
        )
    print_card(card, folder)
    return 0


def run_diff(args: argparse.Namespace) -> int:
    """Runs ``layerselect card diff`` and returns its exit code."""
    from ..card import LayerCard, diff
    from .card_display import print_diff

    one, other = (LayerCard.load(path) for path in args.cards)
    print_diff(diff(one, other), *args.cards)
    return 0
