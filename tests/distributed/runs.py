"""Runs of the training commands in the processes of the distributed tests, as if ``torchrun`` had started them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist
from accelerate.state import AcceleratorState
from layerselect import LayerSelectError
from layerselect.cli.main import main
from layerselect.tasks.intent import IntentConfig, run_intent
from layerselect.tasks.revise import ReviseConfig, run_revise
from layerselect.tasks.run.log import RunLog
from safetensors.numpy import load_file

from tests.helpers import tiny_intent
from tests.helpers.pages import without_pages

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
        tiny_intent.write_jsonl(place / "sets.jsonl", _with_sets())
    if dist.is_initialized():
        dist.barrier()
    return place


#: Labels that the tokenizer knows.
_KINDS = ("market", "lantern", "harbour", "letters", "bridge", "garden")


def _with_sets() -> list[dict[str, Any]]:
    """Revisions of which one in each document has two labels that no other document has together."""
    rows = tiny_intent.revisions()
    for row in rows[::6]:
        document = int(row["doc_id"][1:])
        first, second = document % 6, (document + 1 + document // 6) % 6
        row["intentions"] = [_KINDS[first], _KINDS[second]]
    return rows


def intent(
    place: Path, out: str, *, model: str = "bert", corpus: str = "revisions", resume: bool = False, **settings: Any
) -> Path:
    given = {**SETTINGS, "data": str(place / f"{corpus}.jsonl"), "model": str(place / model), **settings}
    with without_pages():
        return run_intent(IntentConfig(out=str(place / out), **given), resume=resume).folder


def revise(place: Path, out: str, **settings: Any) -> Path:
    given = {**SETTINGS, "data": str(place / "revisions.jsonl"), "model": str(place / "llama"), **settings}
    with without_pages():
        return run_revise(ReviseConfig(out=str(place / out), **given)).folder


def command(place: Path, out: str, *more: str, **settings: Any) -> int:
    """The same as :func:`intent` on the command line; gives the exit status."""
    given = {**SETTINGS, "data": place / "revisions.jsonl", "model": place / "bert", "out": place / out, **settings}
    flags = [name for name, value in given.items() if value is True]
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not True]
    with without_pages():
        return main(["intent", *options, *[f"--{name}" for name in flags], *more])


def refusal(call: Callable[[], Any]) -> str:
    """The sentence with which a run is refused."""
    try:
        call()
    except LayerSelectError as error:
        return str(error)
    return ""


def killed_after(ranks: tuple[int, ...], step: int) -> None:
    """Lets the process, if it is one of ``ranks``, be killed when it has made so many steps."""
    real = RunLog.on_step_end

    def end(self: RunLog, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        real(self, args, state, control, **kwargs)
        if state.global_step == step and int(os.environ["RANK"]) in ranks:
            os.kill(os.getpid(), signal.SIGKILL)

    RunLog.on_step_end = end  # type: ignore[method-assign]  # in a process of its own


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def facts(run: Path) -> dict[str, Any]:
    """The facts of the training of a run."""
    return json.loads((run / "results.json").read_text())["training"]


#: It depends on the order of the scores alone, and two that are the same but for rounding may change places. The scores
#: themselves are compared, too.
RANKED, SWAPPED = "macro_auprc", 0.05


def check_equal(two: Path, one: Path) -> None:
    """Checks that two runs are the same, as far as sums in another order allow."""
    for name in ("adapter/adapter_model.safetensors", "history.safetensors"):
        ours, theirs = load_file(two / name), load_file(one / name)
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            if value.dtype == np.float32:
                np.testing.assert_allclose(ours[key], value, rtol=1e-3, atol=1e-5)
            else:
                assert np.array_equal(ours[key], value)
    for name in ("metrics.jsonl", "training.jsonl", "predictions.jsonl"):
        found, expected = lines(two / name), lines(one / name)
        assert len(found) == len(expected) > 0
        for line, other in zip(found, expected, strict=True):
            assert line.keys() == other.keys()
            for key, value in other.items():
                assert alike(line[key], value, SWAPPED if key == RANKED else 1e-5), (name, key, line[key], value)


def alike(mine: Any, other: Any, most: float = 1e-5) -> bool:
    if isinstance(other, dict):
        return mine.keys() == other.keys() and all(alike(mine[key], value) for key, value in other.items())
    return mine == (pytest.approx(other, rel=1e-4, abs=most) if isinstance(other, float) else other)
