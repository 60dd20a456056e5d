"""``layerselect run``: somebody's training program, unchanged, with layers selected in every Trainer that it makes."""

from __future__ import annotations

import argparse
import json
import logging
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import LayerSelectError
from ..utils.launch import leave_launch
from .launches import shows
from .options import add_common_options
from .streams import say

if TYPE_CHECKING:
    from ..integrations.outcome import Selected

logger = logging.getLogger(__name__)

#: What stands between our options and the program.
BREAK = "--"
_EXAMPLE = """\
examples:
  layerselect run --rule variance -- finetune.py --epochs 3
  layerselect run --rule upper:p=0.5 --mode freeze -- -m trl.scripts.sft --model_name_or_path MODEL ...
  torchrun --nproc-per-node 2 -m layerselect run -- run_glue.py --task_name sst2 ...

The program runs as it is, in this process. Every transformers.Trainer that it makes, also of a subclass, gets our
callback. What starts other processes (torchrun, accelerate launch) stands in front: 'accelerate launch -m layerselect
run -- -m trl.scripts.sft ...'. What was selected is said on stderr when the program has ended.
"""


def add_command(commands: Any, *, whole: bool = True) -> None:
    """Adds the command ``run`` to the parser; unless it is ``whole``, without its options."""
    parser = commands.add_parser(
        "run",
        usage="layerselect run [options] -- SCRIPT.py ARGS\n       layerselect run [options] -- -m MODULE ARGS",
        help="run a training program of yours with layers selected in its Trainers",
        description="Runs a training program unchanged, with a SelectorCallback in every transformers.Trainer that it "
        "makes.",
        epilog=_EXAMPLE,
    )
    if not whole:
        return
    from ..tasks.run.settings import TrainingSettings
    from .settings import add_settings

    add_settings(parser, TrainingSettings, only=("rule", "mode"), group="options")
    parser.add_argument(
        "--selector-option",
        action="append",
        default=[],
        metavar="K=V",
        help="another argument of FastSelector or of SelectorCallback, such as probe_every=50 or resume=fresh; may be "
        "repeated",
    )
    add_common_options(parser)
    parser.set_defaults(run=run)


def split_program(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our own arguments, and those of the program that follow ``--``."""
    if BREAK not in arguments or next((each for each in arguments if not each.startswith("-")), "") != "run":
        return list(arguments), []
    at = list(arguments).index(BREAK)
    return list(arguments[:at]), list(arguments[at + 1 :])


def run(args: argparse.Namespace) -> int:
    """Runs ``layerselect run`` and returns the exit code of the program."""
    from ..integrations.program import find_program, in_every_trainer

    options = {name: getattr(args, name) for name in ("rule", "mode") if hasattr(args, name)}
    with in_every_trainer(**options, **_parsed(args.selector_option)) as found:
        program = find_program(args.program)
        status = 0
        try:
            program()
        except LayerSelectError:
            say("")  # the program's progress bar may stand in the line
            raise
        except SystemExit as ended:
            status = _status(ended.code)
        except Exception:  # what the program raises is its own, with its traceback
            traceback.print_exc()
            status = 1
    leave_launch()
    if shows() and (found or not status):
        for line in _lines(found):
            say(f"layerselect: {line}")
    return status


def _status(code: object) -> int:
    """The exit status that Python makes of what ``sys.exit`` was given."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code
    say(str(code))
    return 1


def _parsed(given: Sequence[str]) -> dict[str, Any]:
    """Options by their names; values are JSON, and whatever is none is text."""
    found: dict[str, Any] = {}
    for each in given:
        name, sign, text = each.partition("=")
        if not sign or not name.isidentifier():
            raise LayerSelectError(f"--selector-option {each!r} is no NAME=VALUE, such as probe_every=50")
        if name in found or name in ("rule", "mode"):
            raise LayerSelectError(f"--selector-option {each!r}: {name} is given twice, or has an option of its own")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def _lines(found: Sequence[Selected]) -> list[str]:
    """What was selected and saved, in sentences."""
    if not found:
        return [
            "no transformers.Trainer without a SelectorCallback of its own has ended a training in this process, so "
            "nothing was selected by this command; where a program starts others, put the launcher in front: "
            "'torchrun -m layerselect run -- SCRIPT.py'"
        ]
    return [line for each in found for line in each.lines()]
