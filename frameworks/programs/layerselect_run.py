"""A program of others, unchanged, under ``layerselect run``: ``layerselect_run SOURCE PATH ARGUMENT ...`` with a public
script, ``layerselect_run -m MODULE ARGUMENT ...``, or ``layerselect_run COMMAND NAME ARGUMENT ...`` with a command that
is installed.

Its words are those of :func:`frameworks.public_scripts.options`, ``CONFIG`` for a file with LLaMA-Factory's
settings, and ``ZERO`` for one with DeepSpeed's.
"""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import nullcontext, redirect_stderr
from pathlib import Path

from layerselect import LayerSelectError
from layerselect.cli.main import main as layerselect
from layerselect.integrations.program import find_program

from ..public_scripts import METRIC, options, patched
from .llamafactory_run import settings, without_sound

#: Of the lines that the command itself says.
NAME = "layerselect: "
#: What the Trainer tells DeepSpeed.
ZERO = {"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": "auto"}


def main(source: str, what: str, *words: str, mode: str) -> None:
    _put_metric()
    files = {"CONFIG": _config, "ZERO": _zero}
    arguments = [files[word]() if word in files else word for word in options(words)]
    if source == "-m":
        program = ["-m", what]
    elif source == "COMMAND":
        program = [str(Path(sys.executable).with_name(what))]
    else:
        program = [str(patched(source, what, selector=False))]
    with without_sound() if "CONFIG" in words else nullcontext():
        _run([*program, *arguments], mode)


def _run(program: list[str], mode: str) -> None:
    if os.environ.get("FRAMEWORKS_CONTROL"):
        find_program(program)()
        return
    ours = ["--rule", "topk:k=2", "--mode", mode, "--selector-option", "probe_every=3"]
    heard = _Heard()
    with redirect_stderr(heard):
        status = layerselect(["run", *ours, "--", *program])
    if status == 2 and heard.ours:  # a refusal
        raise LayerSelectError(heard.ours)
    if status:
        raise SystemExit(status)


class _Heard(io.TextIOBase):
    """Passes on what is said on stderr, and remembers the last line of the command's own."""

    def __init__(self) -> None:
        self._out = sys.stderr
        self.ours = ""

    def write(self, text: str) -> int:
        if text.startswith(NAME):
            self.ours = text.removeprefix(NAME).strip()
        return self._out.write(text)

    def flush(self) -> None:
        self._out.flush()

    def isatty(self) -> bool:
        return False


def _put_metric() -> None:
    """``evaluate.load("accuracy")`` takes a folder of that name before it asks the network."""
    place = Path("accuracy") / "accuracy.py"
    place.parent.mkdir(exist_ok=True)
    part = place.with_suffix(f".part{os.getpid()}")
    part.write_text(METRIC.read_text())
    part.replace(place)


def _config() -> str:
    rank = os.environ.get("RANK", "0")
    place = Path(f"config-{rank}.yaml")
    place.write_text(json.dumps(settings("sft", "lora")))  # which is YAML as well
    return str(place)


def _zero() -> str:
    Path("zero.json").write_text(json.dumps(ZERO))
    return "zero.json"
