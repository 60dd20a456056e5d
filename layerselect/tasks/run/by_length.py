"""Examples in the order of their lengths, so that little is padded where nothing trains; and what came of them, in
their own order again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler


def longest_first(lengths: Sequence[int]) -> list[int]:
    """The numbers of the examples, the longest first: what does not fit into memory shows in the first batch."""
    return sorted(range(len(lengths)), key=lambda number: (-lengths[number], number))


class LongestFirst(Sampler[int]):
    """The examples in that order, always the same. Several processes share its batches."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._order = longest_first(lengths)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[int]:
        return iter(self._order)


def put_back(found: Any, lengths: Sequence[int]) -> Any:
    """What was found for the examples, the longest first, in the order of the examples.

    Args:
        found: an array with a row for each example; or such arrays in tuples, lists and mappings.
    """
    if isinstance(found, Mapping):
        return {name: put_back(value, lengths) for name, value in found.items()}
    if isinstance(found, (tuple, list)):
        return type(found)(put_back(value, lengths) for value in found)
    if found is None:
        return None
    back = np.empty(len(lengths), dtype=np.int64)
    back[longest_first(lengths)] = np.arange(len(lengths))
    return found[back]
