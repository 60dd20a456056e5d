"""``layerselect card``: measures which layers are worth an adapter. ``card diff`` compares two cards, ``card place``
writes a placement.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

from ..errors import LayerSelectError
from ..utils.options import options_of
from .options import add_common_options, add_dry_run_option, add_json_option, add_threads_option, apply_threads
from .settings import add_config_option, add_preset_option, add_settings, chosen_settings, given, heading
from .streams import say, write_json

_EXAMPLE = """\
examples:
  layerselect card --data demo --model demo --out cards/demo
  layerselect card --data iterater-sent:PATH --splits official --model PATH --out cards/iterater
  layerselect card --data iterater-sent:PATH --model PATH --task revise --examples 64 --batch-size 4 --out cards/revise
  layerselect card diff cards/one cards/other
  layerselect card place cards/iterater --k 4 --out placement.json

The folder given with --out holds card.json, card.png, card.html and config.json. Train by a card with
'layerselect intent --placement placement.json', or put card.place(k=4) into peft.LoraConfig.
"""

_HELPS = {
    "data": "as for 'layerselect intent'",
    "model": "a model folder, a hub id, or 'demo'",
    "out": "the folder that the card becomes",
    "seed": "seed of all random choices",
    "device": "where to measure",
    "quantize": "hold the linear maps of the layers in 8 bits, or in 4 (nf4), by bitsandbytes",
    "format": "intent: as for 'layerselect intent'",
    "head": "intent: classifier or generate",
    "max_length": "longer inputs are cut, in tokens; intent: as for 'layerselect intent'; revise: 256",
    "batch_size": "examples at a time; revise: 8",
}


def add_command(commands: Any, *, whole: bool = True) -> None:
    """Adds the command ``card`` to the parser; unless it is ``whole``, without its options."""
    parser = commands.add_parser(
        "card",
        help="measure which layers are worth an adapter",
        description="Measures a model on a sample of a task and says, before any fine-tuning, how much each layer "
        "can correct, which layers do the same, what each costs, and where adapters should go (Layer Card).",
        epilog=_EXAMPLE,
    )
    if not whole:
        return
    from ..card.place import OBJECTIVES
    from ..card.settings import MEASURED, MeasureSettings
    from ..tasks.card.settings import CardSettings
    from ..tasks.intent.config import IntentConfig
    from ..tasks.run.headings import CORPUS

    add_settings(parser, IntentConfig, only=("data", "model", "out"), helps=_HELPS, required=False)
    job = heading(parser, "the job")
    add_config_option(job)
    add_preset_option(job)
    job.add_argument(
        "--task", choices=("intent", "revise"), default="intent", help="what the sample is of (default: intent)"
    )
    job.add_argument("--overwrite", action="store_true", help="replace an earlier card at --out (no other folder)")
    add_settings(parser, IntentConfig, only=("seed", "device"), helps=_HELPS)
    add_threads_option(job)
    add_dry_run_option(job)
    add_json_option(job)
    add_common_options(parser)
    corpus = [field.name for field, option in options_of(IntentConfig) if option.group == CORPUS]
    add_settings(parser, IntentConfig, only=corpus, leave_out=("holdout",))
    add_settings(
        parser, IntentConfig, only=("format", "head", "max_length"), helps=_HELPS, group="what the model reads"
    )
    add_settings(parser, IntentConfig, only=("dtype", "quantize", "attention", "device_map"), helps=_HELPS)
    add_settings(parser, IntentConfig, only=("batch_size",), helps=_HELPS, group=MEASURED)
    add_settings(parser, CardSettings)
    add_settings(parser, MeasureSettings)
    heading(parser, MEASURED).add_argument(
        "--no-times",
        dest="times",
        action="store_false",
        help="count costs instead of measuring them, so that the card is the same on every run",
    )
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", metavar="[diff|place]", required=False, parser_class=type(parser))
    diff = actions.add_parser(
        "diff",
        help="compare two cards",
        description="Compares two cards of the same layers: the order of the layers, which "
        "of them are best, the coupling.",
    )
    diff.add_argument("cards", nargs=2, metavar="CARD", help="a folder of 'layerselect card', or its card.json")
    add_json_option(diff)
    add_common_options(diff)
    diff.set_defaults(run=run_diff)
    place = actions.add_parser(
        "place",
        help="write where adapters should go by a card",
        description="Chooses layers by a card and writes them as a placement, which --placement of the other commands "
        "takes.",
    )
    place.add_argument("card", metavar="CARD", help="a folder of 'layerselect card', or its card.json")
    place.add_argument("--k", type=int, default=None, metavar="N", help="so many layers")
    place.add_argument(
        "--budget",
        type=float,
        default=None,
        metavar="F",
        help="what a step may cost, as a fraction of the step that trains all layers",
    )
    place.add_argument(
        "--objective",
        choices=OBJECTIVES,
        default="performance",
        help="the most gain; 90%% of it at the least cost; or the balance of both (default: performance)",
    )
    place.add_argument(
        "--rank-budget",
        type=float,
        default=None,
        metavar="X",
        help="also share out ranks of LoRA: parameters, or up to 1 a fraction of those of rank 16",
    )
    place.add_argument("--out", required=True, metavar="FILE", help="the file that the placement becomes")
    add_json_option(place)
    add_common_options(place)
    place.set_defaults(run=run_place)


def run(args: argparse.Namespace) -> int:
    """Runs ``layerselect card`` and returns its exit code."""
    for name in ("data", "model", "out"):
        if name not in args:
            raise LayerSelectError(f"layerselect card: --{name} is missing (see layerselect card --help)")
    from ..card.settings import MeasureSettings
    from ..models.load import quiet_transformers
    from ..tasks.card.run import CardJob, plan_card, run_card
    from ..tasks.card.settings import CardSettings
    from ..tasks.intent.config import IntentConfig
    from ..tasks.revise.config import ReviseConfig
    from .card_display import CardDisplay, card_plan_lines, print_card
    from .dry_run import print_plan

    chosen = given(args, IntentConfig)
    without = {"adapter": "lora"}  # no adapter is made, and none is missing
    if args.task == "revise":
        for name in ("format", "head"):
            if name in chosen:
                raise LayerSelectError(f"--{name} belongs to --task intent: leave it out")
        settings: Any = ReviseConfig(**{**chosen_settings(args, "revise", ReviseConfig), **without})
    else:
        settings = IntentConfig(**{**chosen_settings(args, "intent", IntentConfig), **without})
    apply_threads(args.threads)
    quiet_transformers()
    options = {**given(args, MeasureSettings), "timed": args.times}
    asked = CardJob(settings, overwrite=args.overwrite, options=options, **given(args, CardSettings))
    if args.dry_run:
        plan = plan_card(asked)
        print_plan(plan, card_plan_lines(plan), args)
        return 0
    with CardDisplay() as display:
        card, folder = run_card(asked, on_event=display)
    if args.json:
        write_json({"folder": str(folder), "card": card.to_dict()})
    else:
        print_card(card, folder)
    return 0


def run_diff(args: argparse.Namespace) -> int:
    """Runs ``layerselect card diff`` and returns its exit code."""
    from ..card import LayerCard, diff
    from .card_display import print_diff

    one, other = (LayerCard.load(path) for path in args.cards)
    difference = diff(one, other)
    if args.json:
        write_json(difference)
    else:
        print_diff(difference, *args.cards)
    return 0


def run_place(args: argparse.Namespace) -> int:
    """Runs ``layerselect card place`` and returns its exit code."""
    from ..card import LayerCard

    card = LayerCard.load(args.card)
    placement = card.propose(args.k, budget=args.budget, objective=args.objective, rank_budget=args.rank_budget)
    path = placement.save(args.out)
    if args.json:
        write_json({"file": str(path), **placement.to_dict()})
        return 0
    known = not math.isnan(placement.gain)
    gain = f"predicted gain {placement.gain:.0%} of all layers'" if known else "its gain is not known"
    say(
        f"{len(placement.layers)} of {len(placement.names)} layers ({', '.join(map(str, placement.layers))}), a step "
        f"costs {placement.cost:.0%} of one that trains all, {gain}; "
        f"written to {path}"
    )
    return 0
