"""``layerselect predict``: labels new revisions with a trained adapter."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from typing import Any

from .options import add_common_options, add_holding_options, add_threads_option, apply_threads, positive
from .streams import json_line, write_data

logger = logging.getLogger(__name__)

_EXAMPLE = """\
examples:
  layerselect predict --adapter runs/first --input new.jsonl --out labelled.jsonl
  echo '{"before": "He go home.", "after": "He goes home."}' | layerselect predict --adapter runs/first --input -

Every line of the output is a JSON object: {"id": ..., "labels": [...], "scores": {label: score, ...}}.
A revision that cannot be labelled has no labels and an "error" instead; a line at the end counts them.
"""


def add_command(commands: Any, *, whole: bool = True) -> None:
    """Adds the command ``predict`` to the parser; unless it is ``whole``, without its options."""
    parser = commands.add_parser(
        "predict",
        help="label new revisions with a trained adapter",
        description="Reads revisions (JSON lines, CSV, TSV, Parquet or Excel with the columns before and after) and "
        "writes their predicted intentions as JSON lines.",
        epilog=_EXAMPLE,
    )
    if not whole:
        return
    parser.add_argument("--adapter", required=True, metavar="DIR", help="the --out folder of a finished run")
    parser.add_argument(
        "--input", required=True, metavar="FILE", help="the revisions; - reads JSON lines or CSV from stdin"
    )
    parser.add_argument("--out", default=None, metavar="FILE", help="where to write (default, or -: standard output)")
    parser.add_argument(
        "--before", default=None, metavar="COLUMN", help="column with the text before (default: before)"
    )
    parser.add_argument("--after", default=None, metavar="COLUMN", help="column with the text after (default: after)")
    parser.add_argument("--strict", action="store_true", help="stop at a malformed row instead of skipping it")
    parser.add_argument(
        "--model", default=None, metavar="MODEL", help="the base model, if it has moved since the training"
    )
    parser.add_argument(
        "--batch-size", type=positive, default=32, metavar="N", help="revisions at a time (default: 32)"
    )
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="where to run (default: auto)"
    )
    add_holding_options(parser)
    add_threads_option(parser)
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs ``layerselect predict`` and returns its exit code."""
    from ..data import read_revisions
    from ..models.load import quiet_transformers
    from ..tasks.intent import Predictor
    from ..tasks.run.devices import resolve_device
    from ..utils.folders import new_file
    from ..utils.places import output_file

    target = None if args.out in (None, "-") else output_file(args.out, kept={"--input": args.input})
    apply_threads(args.threads)
    quiet_transformers()
    device = resolve_device(args.device)
    rows = read_revisions(args.input, before=args.before, after=args.after, strict=args.strict)
    predictor = Predictor.load(args.adapter, model=args.model, device=device, dtype=args.dtype, quantize=args.quantize)
    failed: list[str] = []

    def lines() -> Iterator[str]:
        for prediction in predictor.predict(rows, batch_size=args.batch_size):
            if prediction.error is not None:
                failed.append(prediction.error)
            yield json_line(prediction.as_dict())

    if target is None:
        for line in lines():
            write_data(line)
    else:
        with new_file(target) as scratch, scratch.open("w", encoding="utf-8") as file:
            file.writelines(lines())
    if failed:
        logger.warning(
            "%d of %d revisions could not be labelled (the first: %s): their lines say why",
            len(failed),
            len(rows),
            failed[0],
        )
    return 0
