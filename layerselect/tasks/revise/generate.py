"""Writing: batches of prompts to texts, through ``generate`` of ``transformers``.

The settings are ours alone: what the checkpoint's ``generation_config`` says (sampling, penalties, other end tokens) is
set aside for the call. Each example has a budget of new tokens; at its end the end token is the only choice, so that an
example's text does not depend on the budgets of the others in its batch.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

from ...distributed.engines import calls_together, has_shards
from ...errors import LayerSelectError
from ...models.holding import computing, device_of
from ...models.positions import usable_positions
from ...models.traits import traits_of
from ...rules.ablation import evaluating
from ..text.completions import base_of, pad_prompts, unwrapped
from .generation import GenerationConfig

logger = logging.getLogger(__name__)


def generate(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    *,
    batch_size: int,
    budgets: Sequence[int],
    device: str | torch.device | None = None,
    on_batch: Callable[[int, int], None] | None = None,
    share: tuple[int, int] = (0, 1),
) -> list[str]:
    """What the model writes after each prompt, in their order, without white space around it.

    The model is in evaluation mode meanwhile. The global random generators are left as they were.

    Args:
        model: a decoder with a language-model head; a ``peft`` adapter may be around it.
        prompts: token ids.
        batch_size: how many are written at a time. Prompts of similar lengths go together, the longest first.
        budgets: for each prompt, how many tokens may be written at most.
        device: of the model, if that cannot be seen from its weights.
        on_batch: is told after each batch how many are written, and how many there are.
        share: the number of this process, and how many share the batches. The texts of the others are empty. With a
            sharded model, all of them write for as long as one does.

    Raises:
        LayerSelectError: the tokenizer has no end token, a budget below 1, an empty prompt, or one that leaves the
            model no position to write at.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise LayerSelectError("the tokenizer has no end token, at which writing stops: use another model")
    base, device = base_of(model), torch.device(device or device_of(model))
    limits = _limits(prompts, budgets, config.max_new_tokens, usable_positions(base))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), -limits[i], i))
    texts = [""] * len(prompts)
    batches = list(_batches(order, prompts, batch_size, mixed=traits_of(base).pads))[share[0] :: share[1]]
    sharded = has_shards(model)
    done, total = 0, sum(map(len, batches))
    with evaluating(model), _drawing(config, device), torch.no_grad():
        for number in range(calls_together(model, len(batches))):
            # Where this process has nothing left to write, it passes through the model for the others.
            chosen = batches[number] if number < len(batches) else order[:1]
            batch = {k: v.to(device) for k, v in pad_prompts([prompts[i] for i in chosen], pad).items()}
            allowed = [limits[i] for i in chosen]
            with _settings(base, config, max(allowed) + 1, end, pad), computing(base):
                written = unwrapped(model).generate(
                    **batch,
                    synced_gpus=sharded,
                    logits_processor=LogitsProcessorList([_EndAtBudget(allowed, batch["input_ids"], end)]),
                )
            if number >= len(batches):
                continue
            for i, row in zip(chosen, written[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
                texts[i] = _text(tokenizer, row, end)
            done += len(chosen)
            if on_batch is not None:
                on_batch(done, total)
    return texts


def _batches(
    order: Sequence[int], prompts: Sequence[Sequence[int]], size: int, *, mixed: bool
) -> Iterator[Sequence[int]]:
    """Batches in that order; of prompts of equal length, unless lengths may be mixed."""
    runs = [list(order)] if mixed else [list(run) for _, run in groupby(order, key=lambda i: len(prompts[i]))]
    for run in runs:
        for start in range(0, len(run), size):
            yield run[start : start + size]


def _limits(
    prompts: Sequence[Sequence[int]], budgets: Sequence[int], most: int | None, positions: int | None
) -> list[int]:
    """The budgets under the general limit and the model's positions."""
    if len(budgets) != len(prompts):
        raise LayerSelectError(f"there are {len(prompts)} prompts and {len(budgets)} budgets of new tokens")
    limits, shortened = [], 0
    for number, (prompt, budget) in enumerate(zip(prompts, budgets, strict=True)):
        if not prompt or budget < 1:
            raise LayerSelectError(
                f"prompt {number} has {len(prompt)} tokens and a budget of {budget}: both must be at least 1"
            )
        limit = budget if most is None else min(budget, most)
        room = math.inf if positions is None else positions - len(prompt) - 1  # the end token takes one
        if limit > room:
            if room < 1:
                raise LayerSelectError(
                    f"prompt {number} has {len(prompt)} tokens and the model {positions} positions: shorten the text"
                )
            limit, shortened = int(room), shortened + 1
        limits.append(limit)
    if shortened:
        logger.warning(
            "%d of %d texts may end early: prompt and text have no room in the model's %d positions",
            shortened,
            len(prompts),
            positions,
        )
    return limits


class _EndAtBudget(LogitsProcessor):
    """Leaves an example whose budget is used up no choice but the end token."""

    def __init__(self, budgets: Sequence[int], prompts: Tensor, end: int) -> None:
        self._budgets = torch.tensor(budgets, device=prompts.device)
        self._start, self._end = prompts.shape[1], end

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        beams = input_ids.shape[0] // len(self._budgets)
        used_up = (input_ids.shape[1] - self._start >= self._budgets).repeat_interleave(beams)
        only_end = torch.full_like(scores[:1], -torch.inf)
        only_end[:, self._end] = 0.0
        return torch.where(used_up[:, None], only_end, scores)


def _text(tokenizer: Any, tokens: list[int], end: int) -> str:
    if end in tokens:
        tokens = tokens[: tokens.index(end)]
    return tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()


@contextmanager
def _settings(base: nn.Module, config: GenerationConfig, longest: int, end: int, pad: int) -> Iterator[None]:
    """The model's own ``generation_config`` is replaced, since it fills whatever a call's leaves open."""
    draws = {"temperature": config.temperature, "top_p": config.top_p, "top_k": 0} if config.sample else {}
    theirs = base.generation_config
    base.generation_config = transformers.GenerationConfig(
        max_new_tokens=longest,
        do_sample=config.sample,
        num_beams=config.beams,
        use_cache=traits_of(base).generates_from_memory,
        eos_token_id=end,
        pad_token_id=pad,
        bos_token_id=None,
        **draws,
    )
    try:
        yield
    finally:
        base.generation_config = theirs


@contextmanager
def _drawing(config: GenerationConfig, device: torch.device) -> Iterator[None]:
    """``transformers`` draws from the global generators: they are seeded, and then put back."""
    if not config.sample:
        yield
        return
    devices = list(range(torch.cuda.device_count())) if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(config.seed)
        if devices:
            torch.cuda.manual_seed_all(config.seed)
        yield
