"""How much two layers do the same: the overlap of what their changes do to the model's outputs."""

from __future__ import annotations

import numpy as np


def coupling(moved: np.ndarray) -> np.ndarray:
    """The coupling of every two layers, float64 [L, L], 1 on the diagonal.

    rho(a, b) = sum u_a' H u_b / sqrt(sum u_a' H u_a * sum u_b' H u_b), sums over examples, u the movement of the
    outputs and H the curvature of the loss in them; since mean(v v') = H, u_a' H u_b is the mean of <v, u_a> <v, u_b>.
    It is 1 for layers whose changes move the outputs alike and 0 where the movements are orthogonal. A layer that moves
    nothing is coupled to none.

    Args:
        moved: float64 [L, S], <v, u> for S pairs of an example and a direction.
    """
    products = moved @ moved.T
    length = np.sqrt(products.diagonal())
    scale = np.where(length > 0, length, 1.0)
    normal = np.clip(products / np.outer(scale, scale), -1.0, 1.0)
    np.fill_diagonal(normal, 1.0)
    coupling: np.ndarray = (normal + normal.T) / 2
    return coupling
