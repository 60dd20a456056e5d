"""``layerselect revise``: fine-tunes a decoder to write the revision that the intentions ask for."""

from __future__ import annotations

import argparse
from typing import Any

from .settings import JOB_SETTINGS, add_job, add_settings, chosen_settings, with_cache_of_budget
from .training import train

_EXAMPLE = """\
examples:
  layerselect revise --data iterater-sent:PATH --splits official --model PATH --out runs/revise
  layerselect intent --data iterater-sent:PATH --splits official --model PATH --out runs/intent
  layerselect revise --data iterater-sent:PATH --splits official --model PATH --from runs/intent --out runs/revise
  layerselect revise --data my.csv --before old --after new --label why --model ORG/NAME --transfer none --out runs/mine

The folder given with --out holds, when the run is complete: config.json, metrics.jsonl, training.jsonl, results.json,
importance.json, history.safetensors, predictions.jsonl, adapter/, report.html, and predictor/ if it trained one. Until
then its files lie in OUT.partial, where --resume continues an interrupted run. Revise new text with
'layerselect rewrite --adapter OUT'.
"""


def add_command(commands: Any, *, whole: bool = True) -> None:
    """Adds the command ``revise`` to the parser; unless it is ``whole``, without its options."""
    parser = commands.add_parser(
        "revise",
        help="fine-tune a model to write revisions",
        description="Fine-tunes a decoder to revise a text for given intentions. A predictor learns the intentions "
        "first; the layers that mattered to it start from its adapters and train, the others stay frozen "
        "(Intention-Tuning).",
        epilog=_EXAMPLE,
    )
    if not whole:
        return
    from ..tasks.revise.config import ReviseConfig

    add_job(parser, ReviseConfig)
    add_settings(parser, ReviseConfig, leave_out=JOB_SETTINGS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs ``layerselect revise`` and returns its exit code."""
    from ..tasks.revise import ReviseConfig, run_revise
    from ..tasks.revise.task import ReviseTask
    from .revise_display import print_revision_results

    config = ReviseConfig(**with_cache_of_budget(chosen_settings(args, "revise", ReviseConfig)))
    return train(args, ReviseTask, config, run_revise, print_revision_results)
