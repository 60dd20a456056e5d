"""Batches that several processes share: one order for all, cut so that a step is over the examples that one process
would have taken, and counted so that its gradient is that of their mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

#: In a batch of several processes: 1, or 0 where its one example only stands in for none.
COUNTS = "counts"


class SimilarLengths(Sampler[int]):
    """A random order in which the examples of a batch have similar lengths, so that little is padded.

    Shuffles, sorts runs of ``chunk`` batches by length, and shuffles the batches. The order depends on the seed and
    the epoch alone, so that a resumed run sees the batches that an uninterrupted one would have seen.

    Args:
        batch_size: of all processes together.
        filled: the last batch is filled up with stand-ins, so that each process finds its part of it: the last example
            again, as ``~index``.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, *, seed: int = 0, chunk: int = 16, filled: bool = False
    ) -> None:
        self._lengths, self._batch, self._seed, self._run = lengths, batch_size, seed, chunk * batch_size
        self._filled = filled
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        total = len(self._lengths)
        return -(-total // self._batch) * self._batch if self._filled else total

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng((self._seed, self._epoch))
        order = generator.permutation(len(self._lengths)).tolist()
        batches: list[list[int]] = []
        for start in range(0, len(order), self._run):
            run = sorted(order[start : start + self._run], key=lambda i: -self._lengths[i])
            batches += [run[i : i + self._batch] for i in range(0, len(run), self._batch)]
        # The one batch that is not full stays last: batches are cut from this order by counting.
        full = [batch for batch in batches if len(batch) == self._batch]
        rest = [i for batch in batches if len(batch) < self._batch for i in batch]
        for number in generator.permutation(len(full)):
            yield from full[number]
        yield from rest
        if self._filled and rest:
            yield from [~rest[-1]] * (self._batch - len(rest))


class WithStandIns(Dataset[Any]):
    """A data set in which ``~index`` is the example at ``index``, marked as a stand-in: a pair of the example and
    whether it counts.
    """

    def __init__(self, examples: Any) -> None:
        self._examples = examples
        self.lengths = examples.lengths

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> tuple[Any, bool]:
        return self._examples[index if index >= 0 else ~index], index >= 0


class SharedCollator:
    """Makes a batch of the pairs of :class:`WithStandIns`. Stand-ins are left out, but for one where nothing else is
    there, since every process must pass through the model. :data:`COUNTS` says which it was.
    """

    def __init__(self, collator: Callable[[list[Any]], dict[str, Tensor]]) -> None:
        self._collator = collator

    def __call__(self, pairs: Sequence[tuple[Any, bool]]) -> dict[str, Tensor]:
        counting = [example for example, counts in pairs if counts]
        batch = dict(self._collator(counting or [pairs[0][0]]))
        batch[COUNTS] = torch.tensor(float(bool(counting)))
        return batch


def part_of_mean(weight: Tensor, counts: Tensor) -> Tensor:
    """What the mean loss of this process's batch is to be multiplied by, so that the mean over the processes is the
    mean over all their examples. All processes must call it; no host waits for it.

    Args:
        weight: of the batch in the mean: how many examples or tokens it has, or the sum of their weights.
        counts: of the batch, as :class:`SharedCollator` made it.
    """
    own = weight.detach().to(torch.float32) * counts
    total = own.clone()
    torch.distributed.all_reduce(total)
    return own * torch.distributed.get_world_size() / total
