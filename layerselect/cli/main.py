"""``layerselect``: finds the command, runs it, and turns errors into one line."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from ..errors import LayerSelectError
from . import card, compare, data, demo, doctor, intent, predict, revise, rewrite, state_cache

logger = logging.getLogger(__name__)

#: In the order of the help page.
COMMANDS = (demo, intent, predict, revise, rewrite, compare, card, state_cache, data, doctor)

EXIT_INPUT = 2  # something in the input, the options or the machine that the user can change
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells expect

_OPTIONAL_PACKAGES = {
    "transformers": "data", "peft": "data", "accelerate": "data", "datasets": "data", "sklearn": "data",
    "scipy": "data", "pandas": "data", "openpyxl": "data", "safetensors": "data", "tokenizers": "data",
    "jinja2": "report", "markupsafe": "report", "matplotlib": "report", "gguf": "gguf", "rouge_score": "revise",
}  # fmt: skip


class _Parser(argparse.ArgumentParser):
    """Reports a bad option in one line instead of the whole usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    from .._version import __version__

    parser = _Parser(
        prog="layerselect",
        description="Fine-tunes language models on text revisions and decides at every step, from the layers' gradients, "
        "which layers to train.",
        epilog="'layerselect COMMAND --help' explains a command. Begin with 'layerselect demo'.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"layerselect {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    for module in COMMANDS:
        module.add_command(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: the arguments without the program's name; ``None`` takes those of the process.

    Returns:
        The exit status: 0, 2 for an error that the user can fix, 130 after an interruption.
    """
    args = build_parser().parse_args(argv)
    _set_up_messages(getattr(args, "verbose", 0))
    try:
        return args.run(args)
    except LayerSelectError as error:
        return _fail(str(error))
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output is gone; there is nobody to tell
        return EXIT_INPUT
    except OSError as error:
        where = f"{error.filename!r}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _OPTIONAL_PACKAGES:
            raise
        extra = _OPTIONAL_PACKAGES[package]
        return _fail(f"the package '{package}' is not installed: pip install 'layerselect[{extra}]'")
    except KeyboardInterrupt:
        hint = getattr(args, "interrupted_hint", "")
        print(f"\nlayerselect: interrupted{hint}", file=sys.stderr)  # noqa: T201
        return EXIT_INTERRUPTED


def _fail(message: str) -> int:
    print(f"layerselect: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    return EXIT_INPUT


def _set_up_messages(verbose: int) -> None:
    """Our own messages to stderr, from warnings on (``-v``: everything). Other packages' loggers are left alone."""
    warnings.simplefilter("ignore", FutureWarning)
    package = logging.getLogger("layerselect")
    for handler in [handler for handler in package.handlers if handler.get_name() == "cli"]:
        package.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.set_name("cli")
    handler.setFormatter(logging.Formatter("%(message)s"))
    package.addHandler(handler)
    package.setLevel(logging.INFO if verbose else logging.WARNING)
