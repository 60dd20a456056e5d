"""From the padded hidden states of a batch to those of its examples, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import LayerSelectError

#: The hidden states of one example, one tensor [n, ...] for each stack that has layers below the cut.
Parts = tuple[Tensor, ...]


def examples_of(states: Sequence[Tensor], masks: Sequence[Tensor | None]) -> list[Parts]:
    """Each example's hidden states, on the host, without padding.

    Args:
        states: [B, T, ...] for each stack.
        masks: bool [B, T] on the host for each; ``None``: nothing is padding.
    """
    host = [state.cpu() for state in states]
    return [
        tuple(state[row] if mask is None else state[row][mask[row]] for state, mask in zip(host, masks, strict=True))
        for row in range(len(host[0]))
    ]


def fits(parts: Parts, masks: Sequence[Tensor | None], row: int) -> bool:
    """Whether an entry has as many tokens as the batch has of the example."""
    return len(parts) == len(masks) and all(
        mask is None or len(part) == int(mask[row].sum()) for part, mask in zip(parts, masks, strict=True)
    )


def batch_of(
    examples: Sequence[Parts], masks: Sequence[Tensor | None], dtypes: Sequence[torch.dtype], *, pinned: bool = False
) -> list[Tensor]:
    """The hidden states of a batch, on the host, [B, T, ...] for each stack; zeros where there is padding: what comes
    of padding is masked everywhere above, or the model would depend on it.

    Args:
        pinned: in memory that a GPU reads by itself.
    """
    built = []
    for number, (mask, dtype) in enumerate(zip(masks, dtypes, strict=True)):
        parts = [example[number] for example in examples]
        length = len(parts[0]) if mask is None else mask.shape[1]
        state = torch.zeros(len(parts), length, *parts[0].shape[1:], dtype=dtype, pin_memory=pinned)
        for row, part in enumerate(parts):
            if mask is None:
                state[row] = part
            else:
                state[row][mask[row]] = part.to(dtype)
        built.append(state)
    return built


def check_shapes(states: Sequence[Tensor], examples: int, masks: Sequence[Tensor | None]) -> None:
    """Checks that hidden states have one row for each example and one column for each token.

    Raises:
        LayerSelectError: hidden states are not [examples, tokens, ...]: the model has them in another order, or puts
            tokens of its own to them or takes some away.
    """
    for state, mask in zip(states, masks, strict=True):
        if state.ndim < 2 or len(state) != examples or (mask is not None and state.shape[:2] != mask.shape):
            tokens = "" if mask is None else f" of {mask.shape[1]} tokens"
            raise LayerSelectError(
                f"the hidden states at the cut are {list(state.shape)} for {examples} examples{tokens}, so they "
                "cannot be told apart token by token and example by example: train with state_cache='none'"
            )
