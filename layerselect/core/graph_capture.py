"""Steps inside a CUDA graph: what may be captured, and why the rest may not.

A graph repeats what the device was told, and nothing that the host did. ``docs/graphs.md`` says what holds under
replay.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..distributed.sharding import is_sharded
from ..errors import LayerSelectError
from ..rules import Rule


def is_capturing(device: torch.device) -> bool:
    """Whether the current stream is being captured. The question does not make the host wait."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def check_capture(rule: Rule, parameters: Sequence[Tensor], *, mode: str, decides_on_device: bool, steps: int) -> None:
    """To be called when a step of a selector is captured.

    Args:
        rule: in force.
        parameters: all that are measured.
        mode: the selector's.
        decides_on_device: whether the host knows nothing of the selection.
        steps: how many were closed before.

    Raises:
        LayerSelectError: it must not be, for what a replay would do is not what a step does.
    """
    reason = _why_not(rule, parameters, mode, decides_on_device, steps)
    if reason:
        raise LayerSelectError(f"selector.step() cannot be captured in a CUDA graph: {reason}")


def refuse_in_capture(device: torch.device, reason: str) -> None:
    """Raises LayerSelectError where the current stream is being captured, for the host is about to do what no replay
    would.
    """
    if is_capturing(device):
        raise LayerSelectError(f"optimizer.step() cannot be captured in a CUDA graph: {reason}")


def _why_not(rule: Rule, parameters: Sequence[Tensor], mode: str, decides_on_device: bool, steps: int) -> str | None:
    if mode == "freeze":
        return "mode='freeze' changes from step to step what the backward pass computes, so use mode='gate'"
    reason = rule.against_capture()
    if reason:
        return reason
    if len({parameter.device for parameter in parameters}) > 1:
        return "the layers are on several devices, so leave the call outside the graph"
    if any(map(is_sharded, parameters)):
        return "the processes add up the sums of their shards in it, so leave the call outside the graph"
    if not decides_on_device:
        return (
            "the host decides and would wait for the device, so use backend='native' and a rule that the kernels "
            "know (variance, topk, fraction, threshold, cost-aware), or leave the call outside the graph"
        )
    if steps == 0:
        return "the first step prepares what the others use, so make some steps without the graph before"
    return None
