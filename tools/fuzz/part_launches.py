"""Launches that nobody meant: what torchrun and accelerate tell processes by environment variables, with odd values and
in odd combinations; ``--launcher`` and ``--fsdp``. Nobody else is there, and nothing trains.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import layerselect.tasks.compare.run as compare
import layerselect.tasks.run.processes as processes
import layerselect.utils.launch as launch
import torch
from accelerate.state import AcceleratorState
from layerselect.tasks.run.settings import TrainingSettings
from layerselect.tasks.run.sharded import fsdp_arguments

from .mutate import ODD_TEXTS
from .part_commands import call, enough, make_places

_NUMBERS = (
    "0",
    "1",
    "2",
    "3",
    "-1",
    "8",
    "65536",
    "29500",
    "x",
    "1.0",
    " 1",
    "+1",
    "01",
    "\u00b2",
    "\u0663",
    "9" * 5000,
)
_ADDRESSES = ("127.0.0.1", "localhost", "nowhere.invalid", "::1", "", " ", "256.1.1.1", "http://127.0.0.1", "a" * 300)
_SWITCHES = ("true", "false", "1", "yes", "TRUE", "maybe")
#: What each variable is drawn from, besides odd texts.
VARIABLES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT", "GROUP_RANK"), _NUMBERS),
    "MASTER_ADDR": _ADDRESSES,
    "TORCHELASTIC_USE_AGENT_STORE": ("True", "False", "true"),
    "TORCHELASTIC_RESTART_COUNT": _NUMBERS,
    "TORCHELASTIC_RUN_ID": ("none", "a/b", ""),
    "ACCELERATE_USE_FSDP": _SWITCHES,
    "ACCELERATE_USE_DEEPSPEED": _SWITCHES,
    "ACCELERATE_USE_CPU": _SWITCHES,
    "ACCELERATE_MIXED_PRECISION": ("no", "bf16", "fp16", "fp8", "half"),
    "FSDP_VERSION": ("1", "2", "3", "two"),
    "FSDP_RESHARD_AFTER_FORWARD": (*_SWITCHES, "FULL_SHARD"),
    "FSDP_ACTIVATION_CHECKPOINTING": _SWITCHES,
    "FSDP_OFFLOAD_PARAMS": _SWITCHES,
    "FSDP_CPU_RAM_EFFICIENT_LOADING": _SWITCHES,
    "OMP_NUM_THREADS": _NUMBERS,
}
#: A launch as it should be, of which some is taken away or replaced.
RIGHT = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
_LAUNCHERS = (
    "torchrun --standalone --nproc-per-node 2", "nothing-there 2", "", " ", "'", '"', "\\", "/", ".", "a.file", "a\nb",
    "--", "a folder", "true", "nul\0", "\ud800", "torchrun " * 5000,
)  # fmt: skip
_COMMANDS = (
    ["intent", "--data", "demo", "--model", "demo", "--out", "new", "--device", "cpu"],
    ["revise", "--data", "demo", "--model", "demo", "--out", "new", "--device", "cpu"],
    ["compare", "--data", "demo", "--model", "demo", "--out", "new"],
    ["run", "--", "a program.py"],
    ["data", "describe", "rows.jsonl"],
    ["doctor"],
)


def cases(rng: random.Random) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Without end: one command in one environment a case."""
    make_places()
    Path("a program.py").write_text("", encoding="utf-8")
    TrainingSettings.load_corpus = compare._compared = _settings_and_enough  # type: ignore[assignment]
    processes._PATIENCE = launch._PATIENCE = timedelta(seconds=0.3)  # nobody comes
    port = 29700
    while True:
        port += 1
        told = dict(RIGHT, MASTER_PORT=str(port)) if rng.random() < 0.7 else {}
        for name in rng.sample(list(VARIABLES), rng.choice((0, 1, 1, 2, 3, 6))):
            told[name] = rng.choice(ODD_TEXTS) if rng.random() < 0.15 else rng.choice(VARIABLES[name])
        for name in rng.sample(sorted(told), rng.choice((0, 0, 1, 2)) if len(told) > 1 else 0):
            del told[name]
        told = {name: text for name, text in told.items() if "\0" not in text and not _has_surrogate(text)}
        arguments = list(rng.choice(_COMMANDS))
        if arguments[0] in ("intent", "revise", "compare") and rng.random() < 0.3:
            arguments.append("--fsdp")
        if arguments[0] == "compare" and rng.random() < 0.7:
            arguments += ["--launcher", rng.choice(_LAUNCHERS)]

        def run(arguments: list[str] = arguments, told: dict[str, str] = told) -> Any:
            return launched(arguments, told)

        shown = " ".join(f"{name}={text[:30]}" for name, text in told.items())
        yield ascii(f"{arguments[0]} {' '.join(arguments[-2:])[:60]} {shown}")[:300], run


def launched(arguments: list[str], told: Mapping[str, str]) -> str:
    """Runs a command in this process as if a launcher had told it this."""
    before = dict(os.environ)
    for name in VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(told)
    try:
        return call(arguments, "utf-8")
    finally:
        os.environ.clear()
        os.environ.update(before)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)


def _settings_and_enough(settings: Any, *args: Any, **kwargs: Any) -> None:
    if isinstance(settings, TrainingSettings):
        fsdp_arguments(settings)
    enough()


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)
