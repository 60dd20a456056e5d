"""Somebody's training program, run unchanged, with a ``SelectorCallback`` in every ``transformers.Trainer`` that it
makes.
"""

from __future__ import annotations

import functools
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from ..errors import LayerSelectError
from .outcome import OutcomeCallback, Selected
from .transformers import SelectorCallback

#: Commands and modules that start the training in other processes, and what works instead.
_BEHIND = "put the launcher in front, as in '{} -m layerselect run -- SCRIPT.py ARGS'"
_TRL = "put the launcher in front, as in 'accelerate launch -m layerselect run -- -m trl.scripts.sft ARGS'"
_STARTERS = {
    "torchrun": _BEHIND.format("torchrun"),
    "torch.distributed.run": _BEHIND.format("torchrun"),
    "torch.distributed.launch": _BEHIND.format("torchrun"),
    "accelerate": _BEHIND.format("accelerate launch"),
    "accelerate-launch": _BEHIND.format("accelerate launch"),
    "accelerate.commands.launch": _BEHIND.format("accelerate launch"),
    "trl": _TRL,
    "trl.cli": _TRL,
    "axolotl": "name layerselect.integrations.axolotl.LayerSelectPlugin in the plugins of its YAML",
    "axolotl.cli.main": "name layerselect.integrations.axolotl.LayerSelectPlugin in the plugins of its YAML",
}

#: LLaMA-Factory's commands, which do so where there is more than one GPU.
_FACTORY = ("llamafactory-cli", "lmf", "llamafactory.cli")


@contextmanager
def in_every_trainer(**options: Any) -> Iterator[list[Selected]]:
    """Gives every Trainer that is made in the block a callback, of subclasses too. One that brings its own keeps it.

    Args:
        options: of :class:`~layerselect.integrations.transformers.SelectorCallback`.

    Yields:
        What was selected, for each training that has ended.

    Raises:
        LayerSelectError: an option that no selector has.
    """
    SelectorCallback(**options)  # what is wrong with the options is said before anything runs
    found: list[Selected] = []
    original = Trainer.__init__

    @functools.wraps(original)
    def with_selector(self: Trainer, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if any(isinstance(callback, SelectorCallback) for callback in self.callback_handler.callbacks):
            return
        callback = OutcomeCallback(found.append, **options)
        self.add_callback(callback)
        callback.on_init_end(self.args, self.state, self.control)

    Trainer.__init__ = with_selector  # type: ignore[method-assign]
    try:
        yield found
    finally:
        Trainer.__init__ = original  # type: ignore[method-assign]


def find_program(words: Sequence[str]) -> Callable[[], None]:
    """Finds a Python program, which runs in this process, as if it had been started by itself, when it is called.

    Whatever the program raises comes through, ``SystemExit`` too.

    Args:
        words: a script and its arguments, or ``-m``, a module and its arguments. A script is a file, or a command
            that is installed as one.

    Raises:
        LayerSelectError: there is no such script or module, or it is known to start the training in processes of its
            own.
    """
    _check_trains_here(words)
    return _module(words) if words[:1] == ["-m"] else _script(words)


def _check_trains_here(words: Sequence[str]) -> None:
    name = "".join(words[1:2]) if words[:1] == ["-m"] else Path("".join(words[:1])).name
    instead = _STARTERS.get(name)
    if name in _FACTORY and torch.cuda.device_count() > 1:
        instead = "with several GPUs write 'torchrun -m layerselect run -- -m llamafactory.launcher CONFIG.yaml'"
    if instead is not None:
        raise LayerSelectError(
            f"{name} starts the training in processes of its own, where no selector would be: {instead}"
        )


def _module(words: Sequence[str]) -> Callable[[], None]:
    name = words[1] if len(words) > 1 else ""
    folder = str(Path.cwd())
    try:
        with _started_as([name], folder):
            there = bool(name) and find_spec(name) is not None
    except (ImportError, ValueError):  # of a package around it
        there = False
    if not there:
        raise LayerSelectError(f"there is no module {name!r} to run behind -m: write -m MODULE and its arguments")

    def run() -> None:
        with _started_as([name, *words[2:]], folder):
            runpy.run_module(name, run_name="__main__", alter_sys=True)

    return run


def _script(words: Sequence[str]) -> Callable[[], None]:
    if not words:
        raise LayerSelectError("no program is named: write '-- SCRIPT.py' with its arguments, or '-- -m MODULE'")
    path = Path(words[0])
    if not path.is_file():
        installed = shutil.which(words[0])
        path = Path(installed) if installed is not None else path
    if not path.is_file():
        raise LayerSelectError(f"there is no script {words[0]!r}: name a Python file, or a module behind -m")
    with path.open("rb") as file:
        first = file.readline(200)
    if path.suffix != ".py" and not (first.startswith(b"#!") and b"python" in first):
        raise LayerSelectError(f"{words[0]!r} is no Python program: name a Python file, or a module behind -m")

    def run() -> None:
        with _started_as(list(words), str(path.resolve().parent)):
            runpy.run_path(str(path), run_name="__main__")

    return run


@contextmanager
def _started_as(argv: list[str], folder: str) -> Iterator[None]:
    """As Python starts a program: with its arguments, and its folder first on the path."""
    before = sys.argv, sys.path[0]
    sys.argv, sys.path[0] = argv, folder
    try:
        yield
    finally:
        sys.argv, sys.path[0] = before
