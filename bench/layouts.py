"""Sets of gradients as they come in practice, and a clock that is fair on a noisy machine."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Gradients of ``num_layers`` layers.

    Attributes:
        flat: the memory of all of them, one vector.
        tensors: views of it, one per parameter, each on a 64-byte boundary.
        layer: the layer of each.
    """

    name: str
    flat: Tensor
    tensors: list[Tensor]
    layer: list[int]

    @property
    def num_layers(self) -> int:
        return max(self.layer) + 1

    @property
    def num_bytes(self) -> int:
        return self.flat.numel() * self.flat.element_size()


def _carve(name: str, shapes: list[tuple[int, ...]], num_layers: int, dtype: torch.dtype) -> Layout:
    sizes = [torch.Size(shape).numel() for shape in shapes] * num_layers
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + -(-size // 32) * 32)
    generator = torch.Generator().manual_seed(0)
    flat = torch.empty(starts[-1], dtype=dtype)
    for chunk in flat.split(1 << 22):  # no large float32 copy
        chunk.copy_(torch.randn(chunk.numel(), generator=generator) * 1e-3)
    tensors = [
        flat[start : start + size].view(shape)
        for start, size, shape in zip(starts, sizes, shapes * num_layers, strict=False)
    ]
    return Layout(name, flat, tensors, [i // len(shapes) for i in range(len(tensors))])


def lora(dtype: torch.dtype) -> Layout:
    """LoRA r=16 on 7 matrices of 32 layers: 448 tensors of 32,768 elements."""
    return _carve("lora", [(16, 2048), (2048, 16)] * 7, 32, dtype)


def full(dtype: torch.dtype) -> Layout:
    """All parameters of 12 layers of width 768: 144 tensors, 85 million elements (340 MB of float32)."""
    shapes: list[tuple[int, ...]] = [(2304, 768), (2304,), (768, 768), (768,), (768,), (768,)]
    shapes += [(3072, 768), (3072,), (768, 3072), (768,), (768,), (768,)]
    return _carve("full", shapes, 12, dtype)


LAYOUTS: dict[str, Callable[[torch.dtype], Layout]] = {"lora": lora, "full": full}


class Turns:
    """Times several functions that take turns, so that whatever else the machine does weighs on all of them alike.

    Their order is drawn anew in each round: what one leaves in the caches must not always help the same next one.
    ``clock`` may be ``time.process_time``, to which time that others had the processor for does not count.
    """

    def __init__(
        self, contenders: dict[str, Callable[[], object]], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._contenders = contenders
        self._clock = clock
        self._random = random.Random(0)
        self.seconds: dict[str, list[float]] = {name: [] for name in contenders}

    def __call__(self) -> None:
        for name in self._random.sample(list(self._contenders), len(self._contenders)):
            start = self._clock()
            self._contenders[name]()
            self.seconds[name].append(self._clock() - start)

    def measure(self, benchmark: Any, rounds: int, threads: int) -> None:
        """One round to warm up, which does not count, then ``rounds`` of them on ``threads`` threads; they are
        ``benchmark``'s, unless it is None."""
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            self()
            for times in self.seconds.values():
                times.clear()
            if benchmark is not None:
                benchmark.pedantic(self, rounds=rounds)
            else:
                for _ in range(rounds):
                    self()
        finally:
            torch.set_num_threads(before)

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratios(self, numerator: str, *denominators: str) -> list[float]:
        """The quotient within each round; of several denominators by their sum."""
        below = [sum(times) for times in zip(*(self.seconds[name] for name in denominators), strict=True)]
        return [a / b for a, b in zip(self.seconds[numerator], below, strict=True)]

    def ratio(self, numerator: str, *denominators: str) -> float:
        """Median over the rounds of the quotient within a round."""
        return statistics.median(self.ratios(numerator, *denominators))

    def ratio_and_interval(self, numerator: str, *denominators: str) -> str:
        """The median quotient with the interval of 95 % in which it lies, for a table."""
        low, high = bootstrap_interval([self.ratios(numerator, *denominators)])
        return f"{self.ratio(numerator, *denominators):.2f} ({low:.2f} to {high:.2f})"

    def differences(self, name: str, base: str) -> list[float]:
        """The difference within each round, in seconds."""
        return [a - b for a, b in zip(self.seconds[name], self.seconds[base], strict=True)]

    def added(self, name: str, base: str) -> float:
        """Median over the rounds of the difference within a round."""
        return statistics.median(self.differences(name, base))


def bootstrap_interval(
    samples: Sequence[Sequence[float]], level: float = 0.95, resamples: int = 4000
) -> tuple[float, float]:
    """Where the sum of the samples' medians lies, each drawn anew ``resamples`` times (percentile bootstrap, Efron
    1979).
    """
    draw = random.Random(0)
    sums = sorted(
        sum(statistics.median(draw.choices(sample, k=len(sample))) for sample in samples) for _ in range(resamples)
    )
    tail = (1.0 - level) / 2.0
    return sums[int(tail * resamples)], sums[int((1.0 - tail) * resamples) - 1]
