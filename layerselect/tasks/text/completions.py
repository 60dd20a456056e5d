"""Completions: what a model is to write after a prompt, in token ids, and the loss of writing it.

Every completion is closed by the end token, so that the model learns where to stop and no completion begins another.
Prompts are padded on the left and completions on the right: what is written follows its prompt without a gap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ...errors import LayerSelectError
from ...models.reading import read_tokens
from ...models.running import base_of, run_tokens
from ...models.running import unwrapped as unwrapped  # found here by those who run completions
from ...models.traits import traits_of
from ...state_cache.keys import CARRIED

#: In a batch: how much each token of a completion counts.
WEIGHTS = "answer_weights"


def prompt_tokens(tokenizer: Any, prompt: str) -> list[int]:
    """The token ids of a prompt, which is left open."""
    ids = read_tokens(tokenizer, prompt, verbose=False)["input_ids"]
    # Some tokenizers close every text, but what is written is to follow this one.
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def completion_tokens(tokenizer: Any, prompt: str, completion: str) -> list[int]:
    """What a model is to write after ``prompt`` and a space: the completion and the end token.

    Only the last line of the prompt is looked at.

    Raises:
        LayerSelectError: the tokenizer has no end token.
    """
    if tokenizer.eos_token_id is None:
        raise LayerSelectError("the tokenizer has no end token, which closes what the model writes: use another model")
    # Tokenized together with the words in front: some tokenizers join a space with the word behind it,
    # some put a mark of their own in front of a text.
    cue = prompt.rpartition("\n")[2]
    before = _plain_tokens(tokenizer, cue)
    whole = _plain_tokens(tokenizer, f"{cue} {completion}")
    if whole[: len(before)] != before or len(whole) == len(before):
        before, whole = [], _plain_tokens(tokenizer, f" {completion}")
    return [*whole[len(before) :], tokenizer.eos_token_id]


def _plain_tokens(tokenizer: Any, text: str) -> list[int]:
    return read_tokens(tokenizer, text, add_special_tokens=False, verbose=False)["input_ids"]


@dataclass
class CompletionSplit(Dataset):
    """One split.

    Attributes:
        rows: the corpus rows, in corpus order.
        prompts: of :func:`prompt_tokens`.
        completions: of :func:`completion_tokens`.
        weights: how much each token of a completion counts in the loss; ``None``: one as much as the other.
        lengths: of prompt and completion together.
    """

    name: str
    rows: list[Mapping[str, Any]]
    prompts: list[list[int]]
    completions: list[list[int]]
    weights: list[list[float]] | None = None
    lengths: list[int] = field(init=False)

    def __post_init__(self) -> None:
        pairs = zip(self.rows, self.prompts, self.completions, strict=True)
        self.lengths = [len(prompt) + len(completion) for _, prompt, completion in pairs]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        more = {} if self.weights is None else {"weights": self.weights[index]}
        return {"prompt": self.prompts[index], "completion": self.completions[index], **more}

    def subset(self, indices: Sequence[int], name: str | None = None) -> CompletionSplit:
        """The examples at ``indices``, in that order."""
        return CompletionSplit(
            name or self.name,
            [self.rows[i] for i in indices],
            [self.prompts[i] for i in indices],
            [self.completions[i] for i in indices],
            None if self.weights is None else [self.weights[i] for i in indices],
        )


class CompletionCollator:
    """Pads a batch of a :class:`CompletionSplit`: ``input_ids`` and ``attention_mask`` int64 ``[B, P]`` of the prompts,
    padded on the left, ``answer_ids`` and ``answer_mask`` int64 ``[B, T]`` of the completions, padded on the right, and
    ``answer_weights`` float32 ``[B, T]``, where the tokens of some example have weights; 1 for those that have none.
    """

    def __init__(self, pad_token_id: int) -> None:
        self._pad = pad_token_id

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        batch = pad_prompts([item["prompt"] for item in items], self._pad)
        batch["answer_ids"], batch["answer_mask"] = pad_answers([item["completion"] for item in items])
        if any("weights" in item for item in items):
            batch[WEIGHTS] = _padded([item.get("weights") or [1.0] * len(item["completion"]) for item in items])
        return batch


def pad_prompts(prompts: Sequence[Sequence[int]], pad_token_id: int) -> dict[str, Tensor]:
    """``input_ids`` and ``attention_mask``, int64 ``[B, P]``, padded on the left."""
    longest = max(map(len, prompts))
    return {
        "input_ids": torch.tensor([[*[pad_token_id] * (longest - len(prompt)), *prompt] for prompt in prompts]),
        "attention_mask": torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]),
    }


def pad_answers(answers: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Tokens and their mask, int64 ``[B, T]``, padded on the right with zeros."""
    return _padded(answers), _padded([[1] * len(answer) for answer in answers])


def _padded(rows: Sequence[Sequence[float]]) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])


def with_answers(prompts: Mapping[str, Tensor], tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Prompts and their answers as rows, ``[B, P + T]``, and which of their tokens are no padding."""
    ids = torch.cat([prompts["input_ids"], tokens], dim=1)
    return ids, torch.cat([prompts["attention_mask"], mask], dim=1)


def nll(
    model: nn.Module, prompts: Mapping[str, Tensor], tokens: Tensor, mask: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Minus the log-probability of one answer for each prompt, float32 ``[B]``, with gradients.

    Args:
        prompts: ``input_ids`` and ``attention_mask``, int64 ``[B, P]``, padded on the left; and the keys of cached
            hidden states, where they are known.
        tokens, mask: each prompt's answer, from :func:`pad_answers`, on the device of the prompts.
        weights: how often each token counts, ``[B, T]``; ``None``: once. Padding must have 0.
    """
    longest = tokens.shape[1]
    carried = {CARRIED: prompts[CARRIED]} if CARRIED in prompts else {}
    ids, whole = with_answers(prompts, tokens, mask)
    logits = forward_padded(model, ids, whole, keep=longest + 1, **carried).logits[:, -longest - 1 : -1]
    losses = nn.functional.cross_entropy(logits.float().transpose(1, 2), tokens, reduction="none")
    return (losses * (mask if weights is None else weights)).sum(dim=1)


def completion_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The mean loss of a completion token over a batch of :class:`CompletionCollator`; the prompts have none.

    Returns:
        The loss, float32 with gradients, and the number of tokens it is a mean of, int64, both on the device. Where the
        tokens have weights, their weighted mean, and the sum of the weights, float32.
    """
    mask, weights = batch["answer_mask"], batch.get(WEIGHTS)
    losses = nll(model, batch, batch["answer_ids"], mask, weights)
    whole = (mask if weights is None else weights).sum()
    return losses.sum() / whole, whole


def forward_padded(model: nn.Module, ids: Tensor, mask: Tensor, *, keep: int = 0, **options: Any) -> Any:
    """Runs the model; padding takes no positions, and only the last ``keep`` positions need logits (0: all).

    Both only where the architecture lets itself be told: without the second it gives the logits of all positions. A
    model that does not pass over padding (:mod:`layerselect.models.traits`) reads the rows in groups of equal padding,
    without it; it then gives logits, and nothing else.
    """
    if traits_of(base_of(model)).pads or bool(mask.all()):
        return run_tokens(model, ids, mask, keep=keep, **options)
    logits: Tensor | None = None
    for rows, start, end in unpadded_groups(mask):
        found = run_tokens(model, ids[rows, start:end], mask[rows, start:end], **options).logits
        if logits is None:
            logits = found.new_zeros(*ids.shape, found.shape[-1])
        logits = logits.index_put((rows[:, None], torch.arange(start, end, device=rows.device)[None]), found)
    assert logits is not None
    return SimpleNamespace(logits=logits[:, -keep:] if keep else logits)


def unpadded_groups(mask: Tensor) -> list[tuple[Tensor, int, int]]:
    """The rows of a batch by where they begin and end: row numbers int64, first column, column behind the last."""
    groups: dict[tuple[int, int], list[int]] = {}
    for number, row in enumerate(mask.tolist()):
        covered = [column for column, value in enumerate(row) if value]
        groups.setdefault((covered[0], covered[-1] + 1) if covered else (0, len(row)), []).append(number)
    return [(torch.tensor(rows, device=mask.device), *ends) for ends, rows in groups.items()]
