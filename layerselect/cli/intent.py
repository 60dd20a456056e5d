"""``layerselect intent``: fine-tunes a model to predict revision intentions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ..rules.registry import built_in
from .options import apply_threads
from .settings import SettingGroups, add_job

_EXAMPLE = """\
examples:
  layerselect intent --data demo --model demo --out runs/first
  layerselect intent --data iterater-sent:PATH --splits official --holdout 0.1 --model PATH --out runs/iterater
  layerselect intent --data my.csv --before old --after new --label why --model ORG/NAME --rule topk:k=4 --out runs/mine

The folder given with --out holds, when the run is complete: config.json, metrics.jsonl, training.jsonl, results.json,
importance.json, history.safetensors, predictions.jsonl, adapter/ and report.html. Until then its files lie in
OUT.partial, where --resume continues an interrupted run. Label new revisions with 'layerselect predict --adapter OUT'.
"""


def rules_help() -> str:
    """What the help of ``--rule`` says: every rule of the package, as it is written."""
    rules = built_in().values()
    by_scores, others = (
        ", ".join(rule.example or rule.name for rule in rules if rule.uses_scores is wanted) for wanted in (True, False)
    )
    return (
        f"how layers are selected. By their gradients: {by_scores}. Without them: {others}. Options follow a colon, "
        "separated by ';'. Their values are JSON: texts stand in double quotes. Installed packages may add rules"
    )


_OWN = ("run", "command", "verbose", "threads", "resume", "overwrite", "interrupted_hint")


def add_command(commands: Any) -> None:
    """Adds the command ``intent`` and its options to the parser."""
    parser = commands.add_parser(
        "intent",
        help="fine-tune a model to predict what a revision is for",
        description="Fine-tunes a pretrained model to predict the intentions of revisions, training at each step the "
        "layers "
        "that the rule selects by their gradients (IR-Tuning).",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # No setting has a default here: those of IntentConfig, or of the demo's model, fill in.
    add_job(parser)
    add_settings(parser)
    parser.set_defaults(run=run)


def add_settings(parser: argparse.ArgumentParser, leave_out: Sequence[str] = ()) -> None:
    """The settings of a run that are not about the job: corpus, text, what trains, training.

    Args:
        leave_out: options that the command itself decides.
    """
    groups = SettingGroups(parser, leave_out)
    groups.corpus()
    text = parser.add_argument_group("what the model reads")
    groups.add(
        text,
        "--format",
        "pair: both texts; plain: an instruction; contextual: an instruction with the text around; "
        "edits: the changed words marked in a window",
        default="edits",
        metavar="NAME",
    )
    groups.add(text, "--window", "edits: words of context on each side of an edit", default=4, kind=int, metavar="N")
    groups.add(text, "--gap", "edits: edits this close together are shown as one", default=1, kind=int, metavar="N")
    groups.add(text, "--cap", "edits: words shown of a long run of changed words", default=12, kind=int, metavar="N")
    text.add_argument(
        "--summary",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="edits: put the kind and size of the edit in front (default: yes)",
    )
    groups.add(text, "--max-length", "longer inputs are cut, in tokens", default=64, kind=int, metavar="N")
    trained = groups.trained(rule=rules_help())
    groups.add(
        trained,
        "--head",
        "classifier: a classification head on the model; generate: a decoder writes the label's words",
        default="classifier",
        choices=("classifier", "generate"),
    )
    groups.state_cache()
    training = groups.training(lr=0.001, batch_size=16, best="with the best macro-F1")
    groups.add(
        training,
        "--class-weights",
        "weigh rare classes more: by the inverse of their counts (balanced) or its square root (sqrt)",
        default="sqrt",
        choices=("none", "sqrt", "balanced"),
    )


def run(args: argparse.Namespace) -> int:
    """Runs ``layerselect intent`` and returns its exit code."""
    from ..tasks.intent.config import DEMO_DEFAULTS

    settings = {name: value for name, value in vars(args).items() if name not in _OWN}
    presets = DEMO_DEFAULTS if args.model == "demo" else {}
    return train({**presets, **settings}, args)


def train(
    settings: dict[str, Any], args: argparse.Namespace, hint: str = "; continue with the same command and --resume"
) -> int:
    """Runs the task with a display and prints the final table."""
    from ..models.load import quiet_transformers
    from ..tasks.intent import IntentConfig, run_intent
    from .display import TrainingDisplay, print_results

    config = IntentConfig(**settings)
    apply_threads(args.threads)
    quiet_transformers()
    args.interrupted_hint = hint
    with TrainingDisplay() as display:
        result = run_intent(config, resume=args.resume, overwrite=args.overwrite, on_event=display)
    print_results(result)
    return 0
