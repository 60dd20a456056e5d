"""``layerselect merge``: a trained adapter folded into the weights of its model."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import Any

from .options import add_common_options, add_json_option, add_threads_option, apply_threads
from .streams import write_json

_EXAMPLE = """\
examples:
  layerselect merge --adapter runs/first --out models/first
  layerselect merge --adapter runs/8b-4bit --out models/8b --dtype bfloat16

The folder is a whole model of transformers. 'layerselect predict --adapter models/first' takes it, too.
"""


def add_command(commands: Any, *, whole: bool = True) -> None:
    """Adds the command ``merge`` to the parser; unless it is ``whole``, without its options."""
    parser = commands.add_parser(
        "merge",
        help="fold a trained adapter into the weights of its model",
        description="Folds a LoRA or DoRA adapter into the weights of the model that it was trained on, and writes the "
        "whole model, which transformers loads by itself.",
        epilog=_EXAMPLE,
    )
    if not whole:
        return
    from ..models.holding import DTYPES

    parser.add_argument("--adapter", required=True, metavar="DIR", help="the --out folder of a finished run")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder that the model becomes")
    parser.add_argument(
        "--model", default=None, metavar="MODEL", help="the base model, if it has moved since the training"
    )
    parser.add_argument(
        "--dtype", default=None, choices=DTYPES, help="how the weights are held (default: as they were in the training)"
    )
    add_threads_option(parser)
    add_json_option(parser)
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs ``layerselect merge`` and returns its exit code."""
    from ..models.load import quiet_transformers
    from ..tasks.merge import merge_adapter
    from ..utils.folders import check_free
    from ..utils.places import output_path

    out = output_path(args.out, kept={"--adapter": args.adapter, "--model": args.model})
    check_free(out)
    apply_threads(args.threads)
    quiet_transformers()
    merged = merge_adapter(args.adapter, out, model=args.model, dtype=args.dtype)
    if args.json:
        write_json({**asdict(merged), "folder": str(merged.folder)})
        return 0
    command = "predict" if merged.task == "intent" else "rewrite"
    sys.stdout.write(
        f"{merged.folder}: {merged.parameters:,} weights, the {merged.adapter} adapter among them\n"
        f"use it: layerselect {command} --adapter {merged.folder} ...\n"
    )
    if merged.word_scores:
        sys.stdout.write(
            "its answers are the model's with those of a logistic regression on the text (word_scores.json): "
            "transformers alone gives the first part, 'intent --blend none' trains a predictor that has no other\n"
        )
    return 0
