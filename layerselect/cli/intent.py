"""``layerselect intent``: fine-tunes a model to predict revision intentions."""

from __future__ import annotations

import argparse
from typing import Any

from . import training
from .pilot import with_pilot
from .settings import JOB_SETTINGS, add_job, add_settings, chosen_settings, heading, with_cache_of_budget
from .training import RESUME_HINT

_EXAMPLE = """\
examples:
  layerselect intent --data demo --model demo --out runs/first
  layerselect intent --data iterater-sent:PATH --splits official --holdout 0.1 --model PATH --out runs/iterater
  layerselect intent --data my.csv --before old --after new --label why --model ORG/NAME --rule topk:k=4 --out runs/mine

The folder given with --out holds, when the run is complete: config.json, metrics.jsonl, training.jsonl, results.json,
importance.json, history.safetensors, predictions.jsonl, adapter/ and report.html. Until then its files lie in
OUT.partial, where --resume continues an interrupted run. Label new revisions with 'layerselect predict --adapter OUT'.
"""


def add_command(commands: Any, *, whole: bool = True) -> None:
    """Adds the command ``intent`` to the parser; unless it is ``whole``, without its options."""
    parser = commands.add_parser(
        "intent",
        help="fine-tune a model to predict what a revision is for",
        description="Fine-tunes a pretrained model to predict the intentions of revisions, training at each step the "
        "layers that the rule selects by their gradients (IR-Tuning).",
        epilog=_EXAMPLE,
    )
    if not whole:
        return
    from ..tasks.intent.config import IntentConfig
    from ..tasks.run.headings import TRAINS

    add_job(parser, IntentConfig)
    add_settings(parser, IntentConfig, leave_out=JOB_SETTINGS)
    heading(parser, TRAINS).add_argument(
        "--pilot",
        metavar="DIR",
        help="train the layers that a pilot finds first, in this folder, or has found there (layerselect pilot); with "
        "--budget among those that cost at most so much. The layers below them are cached where they can be",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs ``layerselect intent`` and returns its exit code."""
    from ..tasks.intent.config import IntentConfig

    settings = chosen_settings(args, "intent", IntentConfig)
    found = with_cache_of_budget(settings) if args.pilot is None else with_pilot(args, settings)
    return 0 if found is None else train(found, args)


def train(settings: dict[str, Any], args: argparse.Namespace, hint: str = RESUME_HINT) -> int:
    """Trains a run with these settings and returns the exit code of the command."""
    from ..tasks.intent import IntentConfig, run_intent
    from ..tasks.intent.task import IntentTask
    from .display import print_results

    return training.train(args, IntentTask, IntentConfig(**settings), run_intent, print_results, hint=hint)
