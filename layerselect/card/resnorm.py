"""From the sums of a linear map to what adapting it could do.

With Sigma = X'X/n, C = X'D/n over the n rows of a map, N the number of losses (examples, or predicted tokens) and
eps = ridge * tr(Sigma)/d:

    resnorm^2       = n/N * tr(C' (Sigma + eps I)^-1 C)
    W               = -(Sigma + eps I)^-1 C, the change of the map that removes most, if a change of its output costs
    its square activation energy = tr(Sigma)/d condition       = (largest eigenvalue of Sigma + eps) / (smallest + eps)
    gradient norm   = n/N * |C|, that of the mean loss in the map's weight

Source: Xu et al., arXiv 2602.04019, for resnorm and energy. The factor n/N is ours (see docs/layer_card.md): it is 1
where each row has a loss of its own, and makes maps that read different numbers of rows comparable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import LayerSelectError

_STEPS = 60  # of Lanczos' iteration, to an accuracy that is enough for a condition number
_ACCURACY = 1e-6


@dataclass(frozen=True)
class Solved:
    """The figures of one map.

    Attributes:
        resnorm_squared, gradient_squared: see above, squared.
        energy: of the inputs.
        condition: of the inputs; ``None`` where they are all zero.
        change: [d, m], W, in the dtype of the sums.
    """

    resnorm_squared: float
    gradient_squared: float
    energy: float
    condition: float | None
    change: Tensor


class Features:
    """The inputs of one or more maps, factored once.

    Args:
        gram: [d, d], X'X, whole.
        rows: n.
        ridge: eps as a multiple of the activation energy, which keeps it the same when inputs are scaled.

    Raises:
        LayerSelectError: a number is not finite, or the inputs span too little to be solved for with this ridge.
    """

    def __init__(self, gram: Tensor, rows: int, ridge: float, name: str) -> None:
        self.name, self.rows = name, rows
        size = gram.shape[0]
        sigma = gram.double() / max(rows, 1)
        self.energy = float(sigma.diagonal().mean())
        self._factor: Tensor | None = None
        self.condition: float | None = None
        if not torch.isfinite(sigma.diagonal()).all():
            raise LayerSelectError(f"the inputs of {name!r} are not finite: a card needs finite hidden states")
        if self.energy == 0.0:
            return
        sigma.diagonal().add_(ridge * self.energy)
        factor, failed = torch.linalg.cholesky_ex(sigma)
        self._factor = factor
        if int(failed):
            raise LayerSelectError(
                f"the {rows} inputs of {name!r} do not span its {size} dimensions with ridge={ridge:g}: give more "
                "batches or a larger ridge"
            )
        largest = _largest(lambda v: sigma @ v, size, sigma)
        smallest = 1.0 / _largest(lambda v: torch.cholesky_solve(v, factor), size, sigma)
        self.condition = largest / smallest

    def solve(self, cross: Tensor, units: int) -> Solved:
        """The figures of a map that reads these inputs.

        Args:
            cross: [d, m], X'D.
            units: N.
        """
        mean = cross.double() / max(self.rows, 1)
        if not torch.isfinite(mean).all():
            raise LayerSelectError(
                f"gradients of the outputs of {self.name!r} are not finite: a card needs finite ones"
            )
        if self._factor is None:
            return Solved(0.0, 0.0, 0.0, None, torch.zeros_like(cross))
        change = torch.cholesky_solve(mean, self._factor).neg_()
        share = self.rows / units
        return Solved(
            resnorm_squared=max(0.0, -share * float((mean * change).sum())),
            gradient_squared=share**2 * float((mean * mean).sum()),
            energy=self.energy,
            condition=self.condition,
            change=change.to(cross.dtype),
        )


def _largest(apply: Callable[[Tensor], Tensor], size: int, like: Tensor) -> float:
    """The largest eigenvalue of a positive definite map, by Lanczos' iteration from a fixed start.

    All directions so far are kept and removed from the next: without that, rounding brings found eigenvalues back.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(size, 1, generator=generator, dtype=torch.float64).to(like.device)
    found = start / start.norm()
    projected = torch.zeros(_STEPS, _STEPS, dtype=torch.float64)
    value = 0.0
    for step in range(min(_STEPS, size)):
        image = apply(found[:, -1:])
        projected[step, step] = float((found[:, -1:] * image).sum())
        before, value = value, float(torch.linalg.eigvalsh(projected[: step + 1, : step + 1])[-1])
        if abs(value - before) <= _ACCURACY * value:
            break
        for _ in range(2):
            image = image - found @ (found.T @ image)
        length = float(image.norm())
        if length <= 1e-12 * value:
            break  # nothing is left to find from this start
        if step + 1 < _STEPS:
            projected[step + 1, step] = projected[step, step + 1] = length
        found = torch.cat([found, image / length], dim=1)
    return value
