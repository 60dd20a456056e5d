"""What a step of the device must do to its state, in numpy: the oracle of the step tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Decide = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, float]]


class Twin:
    """The state of L layers. ``decide`` maps (scores, status) to (mask, threshold)."""

    def __init__(self, num_layers: int, decide: Decide, warmup: int, interval: int) -> None:
        n = num_layers
        self.decide, self.warmup, self.interval = decide, warmup, interval
        self.out = np.zeros(n, bool)  # takes no part
        self.scores = np.full(n, np.nan, np.float32)
        self.status = np.full(n, 2, np.uint8)
        self.nonfinite = np.zeros(n, np.int64)
        self.decided = np.ones(n, bool)
        self.frequency = np.zeros(2 * n, np.int64)  # chosen; and then chosen with gradients
        self.threshold = np.float32(np.nan)
        self.step = 0
        self.rows: list[dict[str, np.ndarray]] = []

    def close_step(self, raw: np.ndarray, active: Sequence[bool], present: Sequence[bool]) -> None:
        """``raw``: float32 [L], the scores of this step; ``present``: the layers with a gradient."""
        wished = np.asarray(active)
        taken = wished & np.asarray(present)
        finite = np.isfinite(raw)
        self.scores = np.where(taken & finite & ~self.out, raw, self.scores).astype(np.float32)
        self.nonfinite += taken & ~finite
        self.status = np.where(np.isfinite(self.scores), 1, 2).astype(np.uint8)
        self.status[(taken & ~finite) | (wished & ~taken & (self.status == 2)) | self.out] = 0
        decides = self.step >= self.warmup and (self.step - self.warmup) % self.interval == 0
        if self.step < self.warmup:
            self.decided[:] = True
        elif decides:
            self.decided, threshold = self.decide(self.scores, self.status)
            self.threshold = np.float32(threshold)
        self.mask = self.decided & (self.status != 0)
        if decides:
            self.frequency += np.concatenate([self.mask, self.mask & taken])
        self.wanted = ~self.out & (self.decided | (self.status != 1) | (wished & ~taken))
        self.gate = np.append(1.0 - self.mask, 0.0).astype(np.float32)
        row = {
            "step": self.step,
            "threshold": self.threshold,
            "scores": self.scores,
            "mask": self.mask,
            "trained": taken,
        }
        self.rows.append({name: np.array(value) for name, value in row.items()})
        self.step += 1
