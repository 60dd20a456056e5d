"""``torch.ops.layerselect.segment_sqnorm`` and ``.variance_split``: the two operations as operators of torch.

The compiled core registers them for the CPU and for CUDA. Where there is no core, plain PyTorch is registered under the
same names. Here is what they are over fake and meta tensors, so that they can be traced by ``torch.compile`` and
``torch.export``:

- ``segment_sqnorm(Tensor?[] tensors, Tensor segments, int num_segments, float? inv_scale=None) -> Tensor``: float64
  [num_segments] on the device of the tensors (the CPU, where all are ``None``); ``segments`` is int64 on the CPU.
- ``variance_split(Tensor scores, Tensor status, float window_lo, float window_hi, bool inclusive, int splits) ->
  (Tensor, Tensor)``: mask bool [L] and threshold float32 [] on the device of ``scores``, which are float32; ``status``
  is uint8 [L]: 0 excluded, 1 measured, 2 never measured. On a GPU it waits for the scores.

:mod:`layerselect.ops` says what they compute. Neither is differentiable. Wrong arguments raise ``ValueError``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _backend, reference

SCHEMAS = {
    "segment_sqnorm": "(Tensor?[] tensors, Tensor segments, int num_segments, float? inv_scale=None) -> Tensor",
    "variance_split": (
        "(Tensor scores, Tensor status, float window_lo, float window_hi, bool inclusive, int splits) -> (Tensor, "
        "Tensor)"
    ),
}


def _sqnorm(
    tensors: Sequence[Tensor | None], segments: Tensor, num_segments: int, inv_scale: float | None = None
) -> Tensor:
    device = next((t.device for t in tensors if t is not None), None)
    return reference.segment_sqnorm(tensors, segments, num_segments, inv_scale).to(device or "cpu")


def _register(compiled: bool) -> None:
    """Registers what the core has not: once in a process, since names in torch's registry are."""
    if not compiled:
        for name, schema in SCHEMAS.items():
            torch.library.define(f"layerselect::{name}", schema, tags=(torch.Tag.pt2_compliant_tag,))
        # Below autograd, so that results never require gradients; CompositeExplicitAutograd is every device.
        torch.library.impl("layerselect::segment_sqnorm", "CompositeExplicitAutograd", _sqnorm)
        torch.library.impl("layerselect::variance_split", "CompositeExplicitAutograd", reference.variance_split)
    torch.library.register_fake("layerselect::segment_sqnorm", _fake_sqnorm)
    torch.library.register_fake("layerselect::variance_split", _fake_split)


def _fake_sqnorm(
    tensors: Sequence[Tensor | None], segments: Tensor, num_segments: int, inv_scale: float | None = None
) -> Tensor:
    if segments.dim() != 1 or segments.numel() != len(tensors):
        raise ValueError(
            f"segments has {segments.numel()} entries for {len(tensors)} tensors; give one segment for each"
        )
    device = next((t.device for t in tensors if t is not None), segments.device)
    return torch.empty(num_segments, dtype=torch.float64, device=device)


def _fake_split(
    scores: Tensor, status: Tensor, window_lo: float, window_hi: float, inclusive: bool, splits: int
) -> tuple[Tensor, Tensor]:
    return scores.new_empty(scores.shape, dtype=torch.bool), scores.new_empty((), dtype=torch.float32)


_register(compiled=_backend.native_module() is not None)
