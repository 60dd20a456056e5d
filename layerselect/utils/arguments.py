"""Checks of arguments: tensors whose numbers can be read, numbers in range, names that are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LayerSelectError
from .saved_schema import MOST, Mismatch, Whole
from .saved_words import is_plain_tensor, shown

#: Sums that are returned at once.
MOST_SEGMENTS = 2**26
_SEED_LOW, _SEED_HIGH = -(2**63), 2**64 - 1  # what torch's generators take


def tensors_of(name: str, tensors: Any) -> list[Tensor | None]:
    """A list of dense tensors with numbers, and of ``None``.

    Raises:
        LayerSelectError: something else.
    """
    try:
        found = None if isinstance(tensors, (str, bytes, Mapping)) else list(tensors)
    except (TypeError, RuntimeError):
        found = None
    if found is None:
        raise LayerSelectError(f"{name} is {shown(tensors)} and must be a list of tensors")
    for number, tensor in enumerate(found):
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise LayerSelectError(f"{name}[{number}] is {shown(tensor)} and must be a tensor or None")
        # The backends say what they do not read of layouts that have a memory: these have none, or hide it.
        if tensor.is_nested or tensor.is_mkldnn or tensor.is_meta:
            raise LayerSelectError(f"{name}[{number}] is {shown(tensor)} and must be a dense tensor of numbers")
    return found


def check_vector(name: str, tensor: Any) -> None:
    """Raises LayerSelectError unless ``tensor`` is a dense floating point vector on a device."""
    if not isinstance(tensor, Tensor):
        raise LayerSelectError(f"{name} must be a floating point vector, not {shown(tensor)}")
    if not is_plain_tensor(tensor) or tensor.dim() != 1 or not tensor.is_floating_point():
        raise LayerSelectError(f"{name} must be a floating point vector, not {_described(tensor)}")


def segments_of(segments: Any) -> Tensor:
    """int64 [n] on the CPU: the numbers of segments.

    Raises:
        LayerSelectError: something else than a list or vector of whole numbers.
    """
    if isinstance(segments, Tensor):
        if not is_plain_tensor(segments):
            raise LayerSelectError(f"segments is {shown(segments)} and must be a vector of whole numbers")
        return segments.to("cpu", torch.int64)
    try:
        return torch.as_tensor(segments, dtype=torch.int64, device="cpu")
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise LayerSelectError(f"segments is {shown(segments)} and must be a list of whole numbers") from error


def check_whole(name: str, value: Any, low: int = 0, high: int = MOST) -> None:
    """Raises LayerSelectError unless ``value`` is a whole number from ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        raise LayerSelectError(f"{name}={_option(value)} is not a whole number of at least {low}")
    try:
        Whole(low, high).check(int(value), name)
    except Mismatch as error:
        raise LayerSelectError(str(error)) from error


def check_number(name: str, value: Any) -> None:
    """Raises LayerSelectError unless ``value`` is a number that a float holds, or a tensor with one."""
    if isinstance(value, Tensor) and is_plain_tensor(value) and value.numel() == 1 and not value.is_complex():
        return
    try:
        if isinstance(value, (bool, str, bytes, list, tuple)):
            raise TypeError
        math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise LayerSelectError(f"{name} is {shown(value)} and must be a number") from error


def check_window(window: Any) -> None:
    """Raises LayerSelectError unless ``window`` is two numbers; their range is looked at by who uses them."""
    if not isinstance(window, (list, tuple)) or len(window) != 2:
        raise LayerSelectError(f"window is {shown(window)} and must be two numbers (a, b) with 0 <= a <= b <= 1")
    for number, value in enumerate(window):
        check_number(f"window[{number}]", value)


def check_texts(**options: Any) -> None:
    """Raises LayerSelectError unless all options are texts; which texts, is looked at by who uses them."""
    for name, value in options.items():
        if not isinstance(value, str):
            raise LayerSelectError(
                f"{name}={_option(value)} is no text: give one of the names that its description lists"
            )


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raises LayerSelectError unless ``value`` is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise LayerSelectError(f"{name}={value!r} is none of {', '.join(map(repr, choices))}")


def seeded(rule: str, seed: Any) -> torch.Generator:
    """A generator on the CPU.

    Raises:
        LayerSelectError: ``seed`` is none.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not _SEED_LOW <= seed <= _SEED_HIGH:
        raise LayerSelectError(f"rule {rule!r}: seed={_option(seed)} is not a whole number of at most 64 bits")
    return torch.Generator().manual_seed(seed)


def check_parameters_are_dense(parameters: Sequence[tuple[str, nn.Parameter]]) -> None:
    """Raises LayerSelectError where a parameter that trains has no numbers that a gradient norm could be taken of."""
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        if parameter.device.type == "meta":
            raise LayerSelectError(
                f"the parameter {name!r} has no numbers yet (it is on the meta device): load the weights before the "
                "selector is built"
            )
        if parameter.is_nested or parameter.layout != torch.strided or not parameter.is_floating_point():
            raise LayerSelectError(
                f"the parameter {name!r} is {shown(parameter)}, whose gradient cannot be measured: freeze it with "
                "requires_grad_(False), or make it dense and of a floating point type"
            )


def _option(value: Any) -> str:
    """A value as its caller would write it, where that is short."""
    return repr(value) if value is None or isinstance(value, (bool, float)) else shown(value)


def _described(tensor: Tensor) -> str:
    if not is_plain_tensor(tensor):
        return shown(tensor)
    return f"a tensor of shape {tuple(tensor.shape)} and dtype {tensor.dtype}"
