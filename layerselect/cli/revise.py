"""``layerselect revise``: fine-tunes a decoder to write the revision that the intentions ask for."""

from __future__ import annotations

import argparse
from typing import Any

from .options import add_flag, add_setting, apply_threads
from .settings import SettingGroups, add_job

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

_RULE = (
    "with --transfer shared, how layers are picked, once, from how often the predictor selected each: variance, "
    "topk:k=4, fraction:p=0.5, and so on. Otherwise how they are selected in every step, as for 'layerselect intent'"
)

_OWN = ("run", "command", "verbose", "threads", "resume", "overwrite", "interrupted_hint")


def add_command(commands: Any) -> None:
    """Adds the command ``revise`` and its options to the parser."""
    parser = commands.add_parser(
        "revise",
        help="fine-tune a model to write revisions",
        description="Fine-tunes a decoder to revise a text for given intentions. A predictor learns the intentions "
        "first; the layers "
        "that mattered to it start from its adapters and train, the others stay frozen (Intention-Tuning).",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_job(parser)
    groups = SettingGroups(parser)
    corpus = groups.corpus()
    groups.add(
        corpus,
        "--max-length",
        "texts that are longer, in tokens, before or after their revision, are cut at sentence "
        "borders; how many is said",
        default=256,
        kind=int,
        metavar="N",
    )
    add_own_settings(groups)
    groups.trained(rule=_RULE)
    groups.state_cache()
    groups.training(lr=0.0005, batch_size=8, best="with the lowest loss")
    parser.set_defaults(run=run)


def add_own_settings(groups: SettingGroups) -> None:
    """The settings that no other task has."""
    first = groups.group("the predictor")
    groups.add(
        first,
        "--from",
        "a finished run of 'layerselect intent' on the same model; without it a predictor is trained first",
        dest="predictor",
        metavar="DIR",
    )
    groups.add(
        first,
        "--transfer",
        "shared: the layers that matter start from the predictor's adapters and train, the others stay as "
        "they are; all: every layer starts from them; none: no predictor",
        default="shared",
        choices=("shared", "all", "none"),
    )
    groups.add(first, "--predictor-rule", "how the predictor's layers are selected", default="variance", metavar="RULE")
    groups.add(first, "--predictor-epochs", "length of its training", default=3, kind=float, metavar="N")
    groups.add(first, "--predictor-max-steps", "stop it after so many steps", kind=int, metavar="N")
    groups.add(first, "--predictor-lr", "its learning rate", default=0.001, kind=float, metavar="X")
    groups.add(first, "--predictor-batch-size", "its examples at a time", default=16, kind=int, metavar="N")
    groups.add(
        first,
        "--predictor-max-length",
        "its inputs are cut, in tokens (default: as 'layerselect intent')",
        kind=int,
        metavar="N",
    )
    writing = groups.group("revisions")
    groups.add(
        writing,
        "--eval-limit",
        "evaluate, revise and score at most so many examples of a split, drawn by --split-seed (default: all)",
        kind=int,
        metavar="N",
    )
    groups.flag(writing, "--untrained", "also score what the untrained model writes")
    add_generation_options(writing)


def add_generation_options(group: argparse._ArgumentGroup) -> None:
    """How texts are written; the destinations are those of ``GenerationConfig``."""
    add_setting(group, "--beams", "follow so many candidates; 1 is greedy", default=1, kind=int, metavar="N")
    add_flag(group, "--sample", "draw each word instead of taking the most likely")
    add_setting(group, "--temperature", "of the draws", default=1.0, kind=float, metavar="X")
    add_setting(
        group,
        "--top-p",
        "draw among the most likely words that have this probability together",
        default=1.0,
        kind=float,
        metavar="P",
    )
    add_setting(
        group,
        "--max-new-tokens",
        "write at most so many tokens for a text (default: by its length)",
        kind=int,
        metavar="N",
    )


def run(args: argparse.Namespace) -> int:
    """Runs ``layerselect revise`` and returns its exit code."""
    from ..models.load import quiet_transformers
    from ..tasks.revise import ReviseConfig, run_revise
    from ..tasks.revise.config import DEMO_DEFAULTS
    from .display import TrainingDisplay
    from .revise_display import print_revision_results

    settings = {name: value for name, value in vars(args).items() if name not in _OWN}
    presets = DEMO_DEFAULTS if args.model == "demo" else {}
    config = ReviseConfig(**{**presets, **settings})
    apply_threads(args.threads)
    quiet_transformers()
    args.interrupted_hint = "; continue with the same command and --resume"
    with TrainingDisplay() as display:
        result = run_revise(config, resume=args.resume, overwrite=args.overwrite, on_event=display)
    print_revision_results(result)
    return 0
