"""``layerselect rewrite``: revises new text with a trained generator."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any

from ..errors import LayerSelectError
from ..utils.saved_files import read_bytes
from ..utils.user_paths import user_path
from .options import add_common_options, add_holding_options, add_threads_option, apply_threads, positive
from .settings import add_settings, given
from .streams import write_data

_EXAMPLE = """\
examples:
  layerselect rewrite --adapter runs/revise --intent clarity < draft.txt > revised.txt
  echo "He go home." | layerselect rewrite --adapter runs/revise --intent fluency --intent clarity

The whole input is one text, unless --lines is given. A text that is longer than the generator was trained for is
revised piece by piece, cut at sentence borders; the white space between the pieces stays as it is.
"""


#: Of a text; it is held whole.
_MOST_BYTES = 256 << 20
#: Behind the end of a line. Separators that a text may hold inside of a line (U+2028, form feeds) are none.
_LINE_ENDS = re.compile(r"(?<=\n)|(?<=\r)(?!\n)")


def add_command(commands: Any, *, whole: bool = True) -> None:
    """Adds the command ``rewrite`` to the parser; unless it is ``whole``, without its options."""
    parser = commands.add_parser(
        "rewrite",
        help="revise new text with a trained generator",
        description="Reads text from the standard input (or a file), revises it for the given intentions, and writes "
        "it.",
        epilog=_EXAMPLE,
    )
    if not whole:
        return
    parser.add_argument(
        "--adapter", required=True, metavar="DIR", help="the --out folder of a finished 'layerselect revise'"
    )
    parser.add_argument(
        "--intent", action="append", default=[], metavar="NAME", help="what the revision is for; may be repeated"
    )
    parser.add_argument(
        "--input", default=None, metavar="FILE", help="the text, in UTF-8 (default, or -: standard input)"
    )
    parser.add_argument("--out", default=None, metavar="FILE", help="where to write (default, or -: standard output)")
    parser.add_argument("--lines", action="store_true", help="each line is a text of its own")
    parser.add_argument(
        "--model", default=None, metavar="MODEL", help="the base model, if it has moved since the training"
    )
    parser.add_argument("--batch-size", type=positive, default=8, metavar="N", help="texts at a time (default: 8)")
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="where to run (default: auto)"
    )
    add_holding_options(parser)
    from ..tasks.revise.generation import GenerationConfig

    add_settings(parser, GenerationConfig, group="how it writes")
    add_threads_option(parser)
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs ``layerselect rewrite`` and returns its exit code."""
    from ..models.load import quiet_transformers
    from ..tasks.revise import GenerationConfig, Rewriter
    from ..tasks.run.devices import resolve_device
    from ..utils.folders import new_file
    from ..utils.places import output_file

    target = None if args.out in (None, "-") else output_file(args.out, kept={"--input": args.input})
    generation = GenerationConfig(**given(args, GenerationConfig))
    apply_threads(args.threads)
    quiet_transformers()
    text = _read(args.input)
    device = resolve_device(args.device)
    rewriter = Rewriter.load(args.adapter, model=args.model, device=device, dtype=args.dtype, quantize=args.quantize)
    texts = [line for line in _LINE_ENDS.split(text) if line] if args.lines else [text]
    revised = "".join(rewriter.rewrite(texts, args.intent, generation=generation, batch_size=args.batch_size))
    if target is None:
        write_data(revised)
        return 0
    with new_file(target) as scratch:
        scratch.write_text(revised, encoding="utf-8")
    return 0


def _read(source: str | None) -> str:
    stdin = source is None or source == "-"
    name = "the standard input" if stdin else repr(source)
    if stdin:
        content = sys.stdin.buffer.read()
    else:
        content = read_bytes(user_path(source, "--input"), advice="give a text file with --input", most=_MOST_BYTES)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LayerSelectError(f"{name} is not text in UTF-8 (byte {error.start}): convert it first") from error
    if not text.strip():
        raise LayerSelectError(f"{name} holds no text to revise")
    return text
