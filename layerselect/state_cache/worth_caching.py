"""Whether reading hidden states is faster than computing them."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Sequence

import torch
from torch import nn

from ..utils.linear_kind import elements

logger = logging.getLogger(__name__)

_COPIED = 64 * 2**20  # bytes of the trial copy
_MATRIX = 4096  # width of the trial product
_ROUNDS = 5
#: The share of the rate of one large matrix product that a whole layer reaches.
_EFFICIENCY = 0.5


def worth_caching(blocks: Sequence[nn.Module]) -> bool:
    """Whether reading what ``blocks`` compute is faster than computing it.

    On the CPU it is: the states are in its memory already. On a GPU they come over its link, d numbers a token at the
    link's bandwidth, in the place of two operations a token for each weight of the blocks. Both rates are measured,
    once: a copy of 64 MB from pinned memory, and a product of two 4096 x 4096 matrices, of whose rate half is taken.
    """
    # Of quantized maps not even the type is one that anything computes in.
    first = next(p for p in blocks[0].parameters() if p.is_floating_point())
    if first.device.type != "cuda":
        return True
    # Most norms and biases are as wide as the hidden states.
    width = statistics.mode(len(p) for block in blocks for p in block.parameters() if p.ndim == 1)
    weights = sum(elements(p) for block in blocks for p in block.parameters())
    read = width * first.element_size() / link_bandwidth(first.device)
    computed = 2.0 * weights / (_EFFICIENCY * matrix_rate(first.device, first.dtype))
    logger.info("hidden states: %.3g us a token to read, %.3g us to compute", read * 1e6, computed * 1e6)
    return read < computed


def link_bandwidth(device: torch.device) -> float:
    """Bytes a second from pinned memory to a GPU."""
    source = torch.empty(_COPIED, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(source, device=device)
    return _COPIED / _seconds(device, lambda: target.copy_(source, non_blocking=True))


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second in a large matrix product."""
    matrix = torch.randn(_MATRIX, _MATRIX, device=device).to(dtype)
    return 2.0 * _MATRIX**3 / _seconds(device, lambda: matrix @ matrix)


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    """The fastest of a few runs."""
    best = float("inf")
    for _ in range(_ROUNDS):
        with torch.cuda.device(device):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            work()
            end.record()
            end.synchronize()
        best = min(best, start.elapsed_time(end) / 1e3)
    return best
