"""``layerselect data describe``: what a corpus holds."""

from __future__ import annotations

import argparse
from typing import Any

from ..utils.options import options_of
from .options import add_common_options, add_json_option, positive
from .settings import add_settings, given
from .streams import write_json

_EXAMPLE = """\
examples:
  layerselect data describe demo
  layerselect data describe iterater-sent:PATH --splits official
  layerselect data describe my.csv --before old --after new --label why --json
"""


def add_command(commands: Any, *, whole: bool = True) -> None:
    """Adds the command ``data`` to the parser; unless it is ``whole``, without its options."""
    parser = commands.add_parser(
        "data",
        help="describe a corpus",
        description="Looks at corpora without training.",
    )
    if not whole:
        return
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=type(parser))
    describe = actions.add_parser(
        "describe",
        help="counts, labels, lengths and defects of a corpus",
        description="Loads a corpus as 'layerselect intent' would and prints what was found: splits and labels, "
        "lengths, documents that stand in two splits, malformed rows.",
        epilog=_EXAMPLE,
    )
    named = describe.add_mutually_exclusive_group(required=True)
    as_argument = {"nargs": "?", "default": argparse.SUPPRESS}  # without it the option's value stays
    named.add_argument("source", metavar="CORPUS", help="as --data of 'layerselect intent'", **as_argument)
    named.add_argument("--data", dest="source", metavar="CORPUS", help="the same, as the other commands have it")
    from ..tasks.run.headings import CORPUS
    from ..tasks.run.settings import TrainingSettings

    corpus = [field.name for field, option in options_of(TrainingSettings) if option.group == CORPUS]
    add_settings(describe, TrainingSettings, only=corpus, leave_out=("holdout",))
    describe.add_argument("--model", default=None, metavar="DIR", help="count tokens with the tokenizer of this model")
    describe.add_argument(
        "--max-length",
        type=positive,
        default=128,
        metavar="N",
        help="of the share of cut pairs, in tokens (default: 128)",
    )
    add_json_option(describe)
    add_common_options(describe)
    describe.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs ``layerselect data`` and returns its exit code."""
    from ..data import describe, load_corpus
    from ..tasks.run.settings import TrainingSettings

    options = {name: value for name, value in given(args, TrainingSettings).items() if name != "model"}
    corpus = load_corpus(args.source, seed=options.pop("split_seed", 0), **options)
    count = None
    if args.model is not None:
        from ..models.tokenizers import load_tokenizer

        tokenizer = load_tokenizer(args.model)

        def count(before: str, after: str) -> int:
            return len(tokenizer(before, after, verbose=False)["input_ids"])

    description = describe(corpus, count_tokens=count, max_length=args.max_length)
    if args.json:
        write_json(description.as_dict())
    else:
        description.render()
    return 0
