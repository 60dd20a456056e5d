"""What an optimizer keeps for each parameter, counted from shapes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from torch import Tensor

from ..errors import LayerSelectError

#: ``bitsandbytes`` keeps parameters with fewer numbers in 32 bits, and one factor for each block of the others.
_SMALL, _BLOCK = 4096, 256
_STEP = 4  # bytes of a step count


@dataclass(frozen=True)
class _Keeps:
    """What is kept for each number of a parameter.

    Attributes:
        states: how many numbers.
        eight_bits: they have 8 bits each; otherwise the type of the parameter, or that of ``itemsize``.
        itemsize: of one, in bytes; ``None``: as in the parameter.
        counts: a step count for each parameter is kept in a tensor.
        factored: of a matrix, rows and columns only.
    """

    states: int
    eight_bits: bool = False
    itemsize: int | None = None
    counts: bool = False
    factored: bool = False


_ADAM = _Keeps(2, counts=True)
_BNB, _BNB_8BIT = _Keeps(2, itemsize=4), _Keeps(2, eight_bits=True)
_LION, _LION_8BIT = _Keeps(1, itemsize=4), _Keeps(1, eight_bits=True)
_OPTIMIZERS = {
    "adamw_torch": _ADAM,
    "adamw_torch_fused": _ADAM,
    "adafactor": _Keeps(1, itemsize=4, factored=True),
    "sgd": _Keeps(0),
    "adagrad": _Keeps(1, counts=True),
    "rmsprop": _Keeps(1, counts=True),
    "adamw_bnb_8bit": _BNB_8BIT,
    "adamw_8bit": _BNB_8BIT,
    "lion_8bit": _LION_8BIT,
    "lion_32bit": _LION,
    "paged_adamw_32bit": _BNB,
    "paged_adamw_8bit": _BNB_8BIT,
    "paged_lion_32bit": _LION,
    "paged_lion_8bit": _LION_8BIT,
}


def known_optimizers() -> list[str]:
    """The optimizers whose state can be counted, by the names that ``transformers`` has for them."""
    return list(_OPTIMIZERS)


def state_bytes(optimizer: str, parameters: Iterable[Tensor]) -> int:
    """The bytes that an optimizer keeps for parameters once each of them has had a gradient.

    Those that are paged stand in the GPU's memory where there is room, and count.

    Args:
        optimizer: the name that ``transformers`` has for it.

    Raises:
        LayerSelectError: it is not known what that one keeps.
    """
    keeps = _OPTIMIZERS.get(optimizer)
    if keeps is None:
        raise LayerSelectError(
            f"--optim {optimizer}: it is not known what that optimizer keeps; those that can be planned are "
            f"{', '.join(_OPTIMIZERS)}"
        )
    return sum(_of_one(keeps, parameter) for parameter in parameters)


def _of_one(keeps: _Keeps, parameter: Tensor) -> int:
    numbers = parameter.numel()
    if keeps.factored and parameter.ndim >= 2:
        rows, columns = parameter.shape[-2:]
        return numbers // (rows * columns) * (rows + columns) * 4
    if keeps.eight_bits and numbers >= _SMALL:
        return keeps.states * (numbers + 4 * ceil(numbers / _BLOCK))
    itemsize = 4 if keeps.eight_bits else keeps.itemsize or parameter.element_size()
    return keeps.states * numbers * itemsize + (_STEP if keeps.counts else 0)
