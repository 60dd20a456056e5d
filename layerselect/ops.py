"""The two operations under everything else: sums of squares per segment, and the variance rule.

Both run in the compiled core where there is one for the tensors' device, else in plain PyTorch
(:mod:`layerselect.reference`). They are operators of torch (:mod:`layerselect.reference.operators`), so that functions
that call them can be compiled without a break.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._backend import load
from .errors import LayerSelectError
from .reference import operators  # noqa: F401  (registers torch.ops.layerselect)
from .utils.arguments import (
    MOST_SEGMENTS,
    check_number,
    check_vector,
    check_whole,
    check_window,
    segments_of,
    tensors_of,
)

__all__ = ["segment_sqnorm", "variance_split"]


def segment_sqnorm(
    tensors: Sequence[Tensor | None],
    segments: Tensor | Sequence[int],
    num_segments: int,
    *,
    inv_scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Sums of squares of many tensors, added up per segment.

    ``out[s] = sum over i with segments[i] == s of sum(tensors[i] ** 2)``, in one pass over memory. Squares are
    added in float32 over at most 16 values, then in float64 (float64 tensors: in float64 throughout), in an order
    that does not depend on the number of threads: repeated calls give the same bits. Finite float32, float16 and
    bfloat16 input never overflows.

    Args:
        tensors: float32, float16, bfloat16 or float64, of any shapes and strides, dtypes mixed at will. ``None`` and
            empty tensors count 0.
        segments: int64 [len(tensors)] on the CPU; ``segments[i]`` in ``0..num_segments-1`` is the segment of
            ``tensors[i]``.
        num_segments: how many sums to return; a segment without tensors gets 0.
        inv_scale: multiplies every element, and so the sums by its square (the inverse of a loss scale).
        backend: ``"auto"``, ``"native"`` or ``"torch"``. In a compiled function it is always ``"auto"``.

    Returns:
        float64 [num_segments], on the CPU.

    Raises:
        LayerSelectError: a sparse tensor, another dtype, a segment out of range, lengths that differ.
    """
    if torch.compiler.is_compiling():  # what is wrong is found where it runs
        segments = torch.as_tensor(segments, dtype=torch.int64, device="cpu")
        traced: Tensor = torch.ops.layerselect.segment_sqnorm(list(tensors), segments, num_segments, inv_scale)
        return traced.cpu()
    tensors, segments = tensors_of("tensors", tensors), segments_of(segments)
    check_whole("num_segments", num_segments, -MOST_SEGMENTS, MOST_SEGMENTS)
    if inv_scale is not None:
        check_number("inv_scale", inv_scale)
    device = next((t.device for t in tensors if t is not None), torch.device("cpu"))
    try:
        sums: Tensor = load(backend, device).segment_sqnorm(tensors, segments, num_segments, inv_scale)
        return sums.cpu()
    except ValueError as error:
        raise LayerSelectError(str(error)) from None


def variance_split(
    scores: Tensor,
    *,
    window: tuple[float, float] = (0.35, 0.65),
    inclusive: bool = True,
    splits: int = 1,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Splits layers into two groups of similar scores and selects the upper one.

    With the scores sorted ascending, s_(1..L), each cut k in 1..L-1 costs ``Var(s_(1..k)) + Var(s_(k+1..L))``
    (population variances, in float64). The cut of least cost is taken, the lowest k on ties (costs within a relative
    1e-12 are ties); the threshold is s_(k). A common scale changes nothing.

    Source: IR-Tuning (Liu & Litman, Findings of EMNLP 2025, arXiv 2510.00268); Intention-Tuning (Liu & Litman, Findings
    of EACL 2026, arXiv 2602.00477), equations 10 and 11.

    Args:
        scores: [L], floating point (compared as float32), finite, L from 1 to 1024; equal scores keep layer order.
        window: (a, b) with 0 <= a <= b <= 1: only cuts with k - 1 in [int(a L), int(b L)] are tried, which guards
            against skewed scores. Where that holds no cut, it is widened until it does.
        inclusive: whether the layer whose score is the threshold is selected too.
        splits: how many times to split; each further one splits the layers selected so far, and the threshold is
            that of the last.
        backend: ``"auto"``, ``"native"`` or ``"torch"``. In a compiled function it is always ``"auto"``.

    Returns:
        (mask bool [L], threshold float32 []), on the device of ``scores``. A single layer is selected, with its score
        as the threshold.

    Raises:
        LayerSelectError: scores that are not finite (the message names the first), of the wrong shape or length, a
            window out of range, ``splits`` below 1.
    """
    check_vector("scores", scores)
    check_window(window)
    check_whole("splits", splits, -MOST_SEGMENTS)
    if scores.numel() == 0:
        raise LayerSelectError("scores is empty; there must be a score for at least one layer")
    scores = scores.detach().to(torch.float32)
    if torch.compiler.is_compiling():  # what the scores are is not known yet; the operator looks
        status = torch.ones(scores.shape, dtype=torch.uint8, device=scores.device)
        traced: tuple[Tensor, Tensor] = torch.ops.layerselect.variance_split(scores, status, *window, inclusive, splits)
        return traced
    finite = torch.isfinite(scores)
    if not bool(finite.all()):
        index = int((~finite).nonzero()[0])
        raise LayerSelectError(f"scores[{index}] is {scores[index].item()}; every score must be finite")
    status = torch.ones(scores.numel(), dtype=torch.uint8, device=scores.device)
    try:
        split: tuple[Tensor, Tensor] = load(backend, scores.device).variance_split(
            scores, status, *window, inclusive, splits
        )
        return split
    except ValueError as error:
        raise LayerSelectError(str(error)) from None
