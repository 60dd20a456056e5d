"""Runs of the training commands in the processes of the distributed tests, as if ``torchrun`` had started them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from accelerate.state import AcceleratorState
from layerselect import LayerSelectError
from layerselect.tasks.intent import IntentConfig, run_intent
from layerselect.tasks.revise import ReviseConfig, run_revise
from layerselect.tasks.run.log import RunLog

from tests.helpers import tiny_intent

#: With plain gradient descent, which does not make much of last bits; nothing is dropped.
SETTINGS: dict[str, Any] = {
    "device": "cpu",
    "dropout": 0.0,
    "lora_dropout": 0.0,
    "optim": "sgd",
    "lr": 0.3,
    "schedule": "constant",
    "lora_rank": 4,
    "eval_batch_size": 16,
}


@contextmanager
def as_launched() -> Iterator[int]:
    """In the block, the environment is that of ``torchrun``; gives the number of this process."""
    before = dict(os.environ)
    rank, count = dist.get_rank(), dist.get_world_size()
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")
    try:
        yield rank
    finally:
        os.environ.clear()
        os.environ.update(before)
        AcceleratorState._reset_state(reset_partial_state=True)
        dist.barrier()


def made(folder: Path, rank: int) -> Path:
    """The folder with a corpus, an encoder and a decoder, made by the first process."""
    place = folder / "runs"
    if rank == 0 and not place.exists():
        for name, make in (("bert", tiny_intent.save_bert), ("llama", tiny_intent.save_llama)):
            (place / name).mkdir(parents=True)
            make(place / name)
        tiny_intent.corpus_file(place)
    if dist.is_initialized():
        dist.barrier()
    return place


def intent(place: Path, out: str, *, model: str = "bert", resume: bool = False, **settings: Any) -> Path:
    given = {**SETTINGS, "data": str(place / "revisions.jsonl"), "model": str(place / model), **settings}
    return run_intent(IntentConfig(out=str(place / out), **given), resume=resume).folder


def revise(place: Path, out: str, **settings: Any) -> Path:
    given = {**SETTINGS, "data": str(place / "revisions.jsonl"), "model": str(place / "llama"), **settings}
    return run_revise(ReviseConfig(out=str(place / out), **given)).folder


def refusal(call: Callable[[], Any]) -> str:
    """The sentence with which a run is refused."""
    try:
        call()
    except LayerSelectError as error:
        return str(error)
    return ""


class Stopped(BaseException):
    """Stands for a signal that ends all processes at once."""


@contextmanager
def stopping_after(step: int) -> Iterator[None]:
    """The process stops when it has made so many steps."""
    real = RunLog.on_step_end

    def stop(self: RunLog, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        real(self, args, state, control, **kwargs)
        if state.global_step == step:
            raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLog, "on_step_end", stop)
        yield
