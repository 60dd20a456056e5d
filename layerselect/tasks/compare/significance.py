"""Whether two methods differ: a bootstrap over seeds and examples together, and Holm's correction for several tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Difference:
    """The quality of one method minus that of another.

    Attributes:
        mean: over the common seeds, on all examples.
        low, high: the central 95 % of the bootstrap.
        p: two-sided; the share of samples on the other side of 0, doubled.
        seeds: how many runs of each were paired.
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: int


#: A run's quality for each weighting of the examples: float64 ``[B, n]`` (how often each counts) to float64 ``[B]``.
Quality = Callable[[np.ndarray], np.ndarray]


def paired_bootstrap(
    examples: int, ours: Sequence[Quality], theirs: Sequence[Quality], *, samples: int = 2000, seed: int = 0
) -> Difference:
    """Draws seeds and examples with replacement, the same ones for both methods, and compares their quality.

    Two runs with the same seed are a pair: they saw the same order of the data. With few seeds the spread over seeds is
    known badly, so an interval is rather too narrow than too wide.

    Args:
        examples: n, how many there are.
        ours, theirs: for each seed, the quality of the run.
        samples: of the bootstrap.
        seed: of its generator.

    Raises:
        ValueError: no seed, or not the same number of seeds on both sides.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} and {len(theirs)} runs cannot be paired")
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(examples, np.full(examples, 1.0 / examples), size=samples).astype(np.float64)
    drawn = generator.integers(len(ours), size=(samples, len(ours)))
    by_seed = np.stack([a(weights) - b(weights) for a, b in zip(ours, theirs, strict=True)])
    differences = np.take_along_axis(by_seed.T, drawn, axis=1).mean(axis=1)
    whole = np.ones((1, examples))
    mean = float(np.mean([a(whole) - b(whole) for a, b in zip(ours, theirs, strict=True)]))
    beyond = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    low, high = np.percentile(differences, [2.5, 97.5])
    return Difference(mean, float(low), float(high), min(1.0, 2 * (beyond + 1) / (samples + 1)), len(ours))


def macro_f1(weights: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Macro-F1 over the labels that occur, for each weighting of the examples: float64 ``[B]``.

    Args:
        weights: float64 ``[B, n]``, how often each example counts.
        truth, predicted: bool ``[n, C]``.
    """
    right = weights @ (truth & predicted)
    total = weights @ truth.astype(np.float64)
    f1 = 2 * right / np.maximum(total + weights @ predicted.astype(np.float64), 1e-12)
    occurs = total > 0
    return (f1 * occurs).sum(axis=1) / np.maximum(occurs.sum(axis=1), 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the p-values of several tests, each made as large as their number asks for."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        corrected[index] = largest
    return corrected
