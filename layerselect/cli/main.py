"""``layerselect``: finds the command, runs it, and turns errors into one line."""

from __future__ import annotations

import argparse
import logging
import re
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, NoReturn

from ..errors import LayerSelectError
from ..utils.disk_errors import of_a_disk, of_a_file
from ..utils.memory_errors import ran_out
from . import (
    card,
    compare,
    completion,
    data,
    demo,
    doctor,
    inspect,
    intent,
    merge,
    pilot,
    plan,
    predict,
    revise,
    rewrite,
    run,
    state_cache,
)
from .config_file import with_config_file
from .help_text import HelpText
from .interrupts import EXIT_INTERRUPTED, Ended, held_back, stops
from .launches import check_launch, may_say_why, shows
from .old_names import with_new_names
from .streams import leave_pipe, prepare_streams, say
from .wording import in_options, one_line

logger = logging.getLogger(__name__)

#: What argparse says of a command, or of a value, that is none of those that there are.
_INVALID = re.compile(r"invalid choice: '(.*)' \(choose from (.*)\)$")

#: In the order of the help page.
COMMANDS = (
    demo,
    plan,
    intent,
    inspect,
    predict,
    revise,
    rewrite,
    run,
    merge,
    compare,
    card,
    pilot,
    state_cache,
    data,
    doctor,
    completion,
)

EXIT_DEFECT = 1
EXIT_INPUT = 2  # something in the input, the options or the machine that the user can change

_OPTIONAL_PACKAGES = {
    "transformers": "data",
    "peft": "data",
    "accelerate": "data",
    "datasets": "data",
    "sklearn": "data",
    "scipy": "card",
    "pandas": "data",
    "openpyxl": "data",
    "safetensors": "data",
    "tokenizers": "data",
    "yaml": "data",
    "jinja2": "report",
    "markupsafe": "report",
    "matplotlib": "report",
    "gguf": "gguf",
    "rouge_score": "revise",
    "shtab": "completion",
    "lightning": "lightning",
}


class _Parser(argparse.ArgumentParser):
    """Reports a bad option in one line instead of the whole usage text. An option is written out: another command may
    have one that begins as it does and means something else.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False, "formatter_class": HelpText})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = sys.argv[1:] if args is None else list(args)
        empty = next((arg for arg in args if arg.startswith("--") and arg.endswith("=--")), None)
        if empty is not None:  # argparse would give a list without a value
            self.error(f"argument {empty[:-3]}: -- is no value")
        args = with_config_file(args, self)
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._nearest(unknown[0])}")
        return known, unknown

    def _nearest(self, unknown: str) -> str:
        name = unknown.partition("=")[0]
        options = [option for option in self._option_string_actions if option.startswith("--")]
        begins = [option for option in options if name.startswith("--") and len(name) > 2 and option.startswith(name)]
        near = begins or (get_close_matches(name, options, 3) if name.startswith("--") else [])
        return f": did you mean {' or '.join(near[:4])}?" if near else ""

    def options(self) -> dict[str, str]:
        """The options by the names of their arguments, as callers of the library know them."""
        return {
            action.dest: next(option for option in action.option_strings if option.startswith("--"))
            for action in self._actions
            if any(option.startswith("--") for option in action.option_strings)
        }

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        sys.stdout.flush()  # a help page that nobody can read is an error like any other
        super().exit(status, message)

    def error(self, message: str) -> NoReturn:
        wrong = _INVALID.search(message)
        if wrong is not None and (near := get_close_matches(wrong[1], re.findall(r"[\w-]+", wrong[2]), 1)):
            message = f"{message}: did you mean {near[0]}?"
        if not may_say_why():
            self.exit(EXIT_INPUT)
        self.exit(EXIT_INPUT, f"{one_line(f'{self.prog}: {message}')} (see {self.prog} --help)\n")


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser of all commands.

    Args:
        only: the command whose options are wanted, since those of others take looking up; ``None``: those of all.
    """
    from .._version import __version__

    parser = _Parser(
        prog="layerselect",
        description="Fine-tunes language models on text revisions and decides at every step, from the layers' "
        "gradients, which layers to train.",
        epilog="'layerselect COMMAND --help' explains a command. Begin with 'layerselect demo'.",
    )
    parser.add_argument("--version", action="version", version=f"layerselect {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2].replace("_", "-")
        module.add_command(commands, whole=only in (None, name))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: the arguments without the program's name; ``None`` takes those of the process.

    Returns:
        The exit status: 0, 2 for an error that the user can fix, 130 after an interruption, 143 after another signal to
        end.
    """
    prepare_streams()
    args = argparse.Namespace()
    asked = None
    try:
        with held_back():
            own, program = run.split_program(sys.argv[1:] if argv is None else argv)
            arguments = with_new_names(own)
            parser = build_parser(next((each for each in arguments if not each.startswith("-")), ""))
            args = parser.parse_args(arguments)
            args.program = program
            args.build_parser = build_parser  # for a command that is about all of them
            _load_torch()
        with stops() as asked:
            _set_up_messages(getattr(args, "verbose", 0))
            check_launch(args.command)
            status = args.run(args)
            sys.stdout.flush()
            return status
    except LayerSelectError as error:
        return _fail(_in_its_options(str(error), args))
    except BrokenPipeError:
        return leave_pipe()  # there is nobody to tell
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # as rich ends it
            return leave_pipe()
        raise
    except KeyboardInterrupt as error:
        return _stopped(error, args)
    except Exception as error:
        if asked is not None and asked.request is not None:  # an import of others has made this of it
            return _stopped(asked.request, args)
        message = _of_the_machine(error, getattr(args, "interrupted_hint", ""))
        if message is None:
            if may_say_why():
                raise
            return EXIT_DEFECT
        return _fail(message)


def _load_torch() -> None:
    """Loads torch where a Ctrl-C is held back: it ends the process by itself when it is interrupted meanwhile."""
    with suppress(Exception):  # whoever needs it will say what is wrong with it
        import torch  # noqa: F401


def _stopped(request: KeyboardInterrupt, args: argparse.Namespace) -> int:
    what = "ended by a signal" if isinstance(request, Ended) else "interrupted"
    if may_say_why():
        say(f"\nlayerselect: {what}{getattr(args, 'interrupted_hint', '')}")
    return request.status if isinstance(request, Ended) else EXIT_INTERRUPTED


def _of_the_machine(error: Exception, hint: str) -> str | None:
    """What to say of an error that comes from the machine; ``None``: it is a defect."""
    if (said := of_a_disk(error)) is not None:
        return said + hint
    if ran_out(error) is not None:
        return f"there is not enough memory: make what was asked for smaller (batches, lengths, ranks, threads){hint}"
    if (said := of_a_file(error)) is not None:
        return said
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        if package in _OPTIONAL_PACKAGES:
            return f"the package '{package}' is not installed: pip install 'layerselect[{_OPTIONAL_PACKAGES[package]}]'"
        return None
    return None


def _in_its_options(message: str, args: argparse.Namespace) -> str:
    parser: Any = build_parser(getattr(args, "command", ""))
    for name in (getattr(args, "command", None), getattr(args, "action", None)):
        found = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
        parser = found[0].get(name, parser) if found and name else parser
    return in_options(message, parser.options())


def _fail(message: str) -> int:
    if may_say_why():
        say(f"layerselect: {one_line(message)}")
    return EXIT_INPUT


class _OfCorporaOnce(logging.Filter):
    """Lets a sentence about a corpus pass once: a comparison by folds reads its corpus once for each of them."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("layerselect.data"):
            return True
        text = record.getMessage()
        new = text not in self._said
        self._said.add(text)
        return new


def _set_up_messages(verbose: int) -> None:
    """Our own messages to stderr, from warnings on (``-v``: everything). Other packages' loggers are left
    alone, but for one.
    """
    warnings.simplefilter("ignore", FutureWarning)
    # peft loads it where it is installed, and then it warns of a kernel that nothing here uses.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    package = logging.getLogger("layerselect")
    for handler in [handler for handler in package.handlers if handler.get_name() == "cli"]:
        package.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.set_name("cli")
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(_OfCorporaOnce())
    package.addHandler(handler)
    quiet = logging.WARNING if shows() else logging.ERROR  # of several processes one warns
    package.setLevel(logging.INFO if verbose else quiet)
