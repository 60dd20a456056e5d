"""What is found out about a model by trying it: whether it may be read in padded batches, and whether its memory can be
used.

Most models pass over padding that is masked. Some do not (FNet has no mask, RWKV reads padding into its state): their
rows are run in groups of equal length. Most models that keep keys and values go on from them as if they had read
everything at once. Some do not (of state-space models and linear attention the cache is not all that is remembered, or
not for several tokens at a time): they read prompt and answer again for each answer.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LayerSelectError
from ..utils.memory_errors import unless_memory
from .holding import computing, device_of, holding_of
from .running import run_tokens
from .vocabulary import embedding_rows

logger = logging.getLogger(__name__)

_PLACE = "_layerselect_traits"
_SHORT, _LONG, _MORE = 5, 9, 2
#: Below this share of the largest logit nothing is a difference in any type; who computes as exactly is compared with
#: the row alone only. A difference may be so many times as large as others that mean nothing.
_EXACT, _NOISE = 1e-4, 3.0
_WORDS = 160  # characters that are shown of an error


@dataclass(frozen=True)
class Traits:
    """What a model can be relied on for.

    Attributes:
        pads: masked padding changes nothing.
        continues: a writer goes on from its keys and values as if it had read everything at once.
        generates_from_memory: the same of ``generate`` with its cache.
    """

    pads: bool = True
    continues: bool = True
    generates_from_memory: bool = True


def traits_of(model: nn.Module) -> Traits:
    """What :func:`find_traits` has found out about the model (or one that it is a copy of, or an adapter around)."""
    found = getattr(model, _PLACE, None)
    return found if isinstance(found, Traits) else Traits()


@torch.no_grad()
def find_traits(model: nn.Module, source: str, *, pad: int, writes: bool) -> Traits:
    """Tries the model on a few made-up tokens and keeps with it what came of that.

    Args:
        pad: the number of the padding token.
        writes: it writes; padding then stands on the left.

    Raises:
        LayerSelectError: it cannot be run on tokens alone.
    """
    short, long = _made_up(model, pad, closed=not writes)
    with _undisturbed():
        try:
            alone = [_last(model, row, writes) for row in (short, long)]
        except Exception as error:  # what other people's models raise
            few = holding_of(model).dtype != "float32"
            raise LayerSelectError(
                f"{source} cannot be run on the tokens of a text: {reason(error)}"
                + (f"; perhaps with --dtype float32, instead of {holding_of(model).dtype}" if few else "")
            ) from error
        pads = _pads(model, short, long, alone, pad, writes)
        found = Traits(pads, *(_remembers(model, short, long, pad, pads) if writes else (True, True)))
    if not found.pads:
        logger.info("%s does not pass over padding: its rows are read in groups of equal length", source)
    if not (found.continues and found.generates_from_memory):
        logger.info("%s does not go on from what it keeps of a text: prompts are read again for each answer", source)
    keep_traits(model, found)
    return found


def keep_traits(model: nn.Module, traits: Traits) -> None:
    """Keeps with a model what is known of it."""
    setattr(model, _PLACE, traits)


@torch.no_grad()
def called_in_a_pass(model: nn.Module, *, pad: int, writes: bool) -> set[str] | None:
    """The qualified names of the modules that are called when the model reads a text; ``None`` where it cannot be run
    on one.

    Args:
        pad, writes: as for :func:`find_traits`.
    """
    called: set[str] = set()

    def note(name: str, module: nn.Module, args: Any) -> None:
        called.add(name)

    handles = [module.register_forward_pre_hook(partial(note, name)) for name, module in model.named_modules()]
    try:
        with _undisturbed():
            _last(model, _made_up(model, pad, closed=not writes)[0], writes)
    except Exception as error:  # what other people's models raise: find_traits() says it
        unless_memory(error)
        logger.debug("the model cannot be run on the tokens of a text", exc_info=True)
        return None
    finally:
        for handle in handles:
            handle.remove()
    return called


def reason(error: Exception) -> str:
    """The kind and the first words of an error of other people's code."""
    text = shorten(str(error), _WORDS, placeholder=" ...")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Whatever is drawn in the block, the global generator is as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        yield


def _made_up(model: nn.Module, pad: int, *, closed: bool) -> tuple[Tensor, Tensor]:
    """Two rows of tokens; ``closed`` by the end token, where encoder-decoders look for what a text says."""
    rows = embedding_rows(model) or 64
    end = getattr(getattr(model, "config", None), "eos_token_id", None)
    usable = [number for number in range(min(rows, 64)) if number not in (pad, end)] or [0]
    ids = torch.tensor([usable[(7 + 3 * i) % len(usable)] for i in range(_SHORT + _LONG)])
    if closed and isinstance(end, int) and 0 <= end < rows and end != pad:
        ids[_SHORT - 1] = ids[-1] = end
    ids = ids.to(device_of(model))
    return ids[None, :_SHORT], ids[None, _SHORT:]


def _run(model: nn.Module, ids: Tensor, mask: Tensor | None = None, **options: Any) -> Any:
    return run_tokens(model, ids, torch.ones_like(ids) if mask is None else mask, **options)


def _said(model: nn.Module, ids: Tensor, mask: Tensor, writes: bool) -> Tensor:
    """The logits, as the head of the task asks for them."""
    if writes:
        return _run(model, ids, mask).logits
    with computing(model):
        return model(input_ids=ids, attention_mask=mask).logits


def _last(model: nn.Module, ids: Tensor, writes: bool) -> Tensor:
    logits = _said(model, ids, torch.ones_like(ids), writes)
    return logits[0, -1] if writes else logits[0]


def _alike(model: nn.Module, one: Tensor, other: Tensor) -> bool:
    one, other = one.float(), other.float()
    size = torch.maximum(one.abs().max(), other.abs().max())
    close = bool((one - other).abs().max() <= holding_of(model).close * size)
    return close or not bool(torch.isfinite(one).all())


def _pads(model: nn.Module, short: Tensor, long: Tensor, alone: list[Tensor], pad: int, writes: bool) -> bool:
    ids, mask = _batch(short, long, pad, left=writes)
    try:
        logits = _said(model, ids, mask, writes)
    except Exception as error:  # it takes no mask, or not such a one
        unless_memory(error)
        logger.debug("padded rows cannot be run", exc_info=True)
        return False
    rows = logits[:, -1] if writes else logits
    if holding_of(model).close > _EXACT and not _passes_over(model, ids, mask, rows[0], pad, writes):
        return False
    return all(_alike(model, *pair) for pair in zip(alone, rows, strict=True))


def _passes_over(model: Any, ids: Tensor, mask: Tensor, row: Tensor, pad: int, writes: bool) -> bool:
    """Whether the first, padded row comes to the same where padding has another embedding. In few bits that tells more
    than the difference to the row alone, of which most is rounding. The token itself stays, since classifiers look for
    it.

    What an example comes to also depends on what else is in the batch, by rounding, where tokens of several examples
    are computed together (experts, 8 bits). So what other tokens in the other row do to it is no difference.
    """
    if getattr(model.config, "is_encoder_decoder", False):  # its decoder begins with the padding token
        return True

    def change(other: Tensor) -> float:
        logits = _said(model, other, mask, writes)
        difference = (row - (logits[:, -1] if writes else logits)[0]).float().abs()
        if writes:
            difference[pad] = 0.0  # the embedding may be that of the output, too
        return float(difference.max())

    noise = max(change(torch.stack([ids[0], ids[1].roll(shift)])) for shift in (1, 2, 3))
    table = model.get_input_embeddings().weight
    before = table[pad].clone()
    try:
        table[pad] = table[ids[1, 0]]
        changed = change(ids)
    finally:
        table[pad] = before
    return changed <= _NOISE * noise + _EXACT * float(row.float().abs().max())


def _batch(short: Tensor, long: Tensor, pad: int, *, left: bool) -> tuple[Tensor, Tensor]:
    padding = torch.full((1, _LONG - _SHORT), pad, device=short.device)
    row = torch.cat([padding, short] if left else [short, padding], dim=1)
    covered = torch.cat(
        [torch.zeros_like(padding), torch.ones_like(short)]
        if left
        else [torch.ones_like(short), torch.zeros_like(padding)],
        1,
    )
    return torch.cat([row, long]), torch.cat([covered, torch.ones_like(long)])


def _remembers(model: nn.Module, short: Tensor, long: Tensor, pad: int, pads: bool) -> tuple[bool, bool]:
    """Whether verbalizer words and ``generate`` may go on from what the model keeps of a prompt."""
    if pads:
        ids, mask = _batch(short, long, pad, left=True)
    else:  # two unlike rows of one length: what a batch remembers of one row may not be there for the others
        ids = torch.cat([long, long.flip(1)])
        mask = torch.ones_like(ids)
    more = torch.where(mask[:, :_MORE] == 1, ids[:, :_MORE], long[:, :_MORE])
    seen = torch.cat([mask, torch.ones_like(more)], dim=1)
    whole = _run(model, torch.cat([ids, more], dim=1), seen).logits[:, -_MORE:]
    return _continues(model, ids, mask, more, seen, whole), _generates(model, ids, mask, pad)


def _continues(model: nn.Module, ids: Tensor, mask: Tensor, more: Tensor, seen: Tensor, whole: Tensor) -> bool:
    try:
        memory = getattr(_run(model, ids, mask, use_cache=True), "past_key_values", None)
        if memory is None:
            return False
        # Twice, as for two answers: what one has read must not be there for the other.
        for _ in range(2):
            found = _run(model, more, seen, use_cache=True, past_key_values=copy.deepcopy(memory)).logits
            if found.shape != whole.shape or not _alike(model, whole, found):
                return False
    except Exception as error:  # it cannot go on from what it keeps
        unless_memory(error)
        logger.debug("the model's memory cannot be used", exc_info=True)
        return False
    return True


def _generates(model: nn.Module, ids: Tensor, mask: Tensor, pad: int) -> bool:
    """Whether what ``generate`` finds likely with its cache is what the model finds likely without."""
    if not hasattr(model, "generate"):
        return False
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "num_beams": 1, "pad_token_id": pad}
    try:
        with computing(model):
            found = model.generate(
                input_ids=ids,
                attention_mask=mask,
                use_cache=True,
                output_logits=True,
                return_dict_in_generate=True,
                **options,
            )
    except Exception as error:
        unless_memory(error)
        logger.debug("generate() with a cache cannot be used", exc_info=True)
        return False
    written = found.sequences[:, ids.shape[1] :]
    seen = torch.cat([mask, torch.ones_like(written)], dim=1)
    direct = _run(model, found.sequences, seen).logits[:, ids.shape[1] - 1 : -1]
    return all(_alike(model, direct[:, step], logits) for step, logits in enumerate(found.logits))
