"""A program of others, unchanged, under ``layerselect run``: ``layerselect_run SOURCE PATH ARGUMENT ...`` with a public
script, ``layerselect_run -m MODULE ARGUMENT ...``, or ``layerselect_run COMMAND NAME ARGUMENT ...`` with a command that
is installed.

Its words are those of :func:`frameworks.public_scripts.options`, and ``CONFIG`` for a file with LLaMA-Factory's
settings.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

from layerselect.cli.main import main as layerselect

from ..public_scripts import METRIC, options, patched
from .llamafactory_run import settings, without_sound


def main(source: str, what: str, *words: str, mode: str) -> None:
    _put_metric()
    arguments = [_config() if word == "CONFIG" else word for word in options(words)]
    if source == "-m":
        program = ["-m", what]
    elif source == "COMMAND":
        program = [str(Path(sys.executable).with_name(what))]
    else:
        program = [str(patched(source, what, selector=False))]
    with without_sound() if "CONFIG" in words else nullcontext():
        status = _run([*program, *arguments], mode)
    if status:
        raise SystemExit(status)


def _run(program: list[str], mode: str) -> int:
    if os.environ.get("FRAMEWORKS_CONTROL"):
        from layerselect.integrations.program import run_program

        run_program(program)
        return 0
    ours = ["--rule", "topk:k=2", "--mode", mode, "--selector-option", "probe_every=3"]
    return layerselect(["run", *ours, "--", *program])


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
