"""Linear networks with squared loss in which every question about adapters is a least-squares problem."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from layerselect.card import LayerCard, measure
from torch import Tensor, nn


class Block(nn.Module):
    """x -> (x A) V B: a feature map A, the linear map V that is watched, and a map B behind it whose rows are
    orthonormal.
    """

    def __init__(self, features: Tensor, behind: Tensor) -> None:
        super().__init__()
        self.register_buffer("features", features)
        self.register_buffer("behind", behind)
        self.map = nn.Linear(features.shape[1], behind.shape[0], bias=False)
        self.inner = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x @ self.features) @ self.behind


class Parallel(nn.Module):
    """The sum of blocks that all read the input."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        return sum(block(x) for block in self.blocks)


def orthonormal_rows(rows: int, columns: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(columns, rows, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(drawn).Q.T.contiguous()


def parallel(behind: Sequence[Tensor], features: Sequence[Tensor], seed: int = 0) -> Parallel:
    torch.manual_seed(seed)
    return Parallel([Block(a, b) for a, b in zip(features, behind, strict=True)]).double()


def feature_maps(count: int, inputs: int, width: int, seed: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(inputs, width, generator=generator, dtype=torch.float64) for _ in range(count)]


def data(rows: int = 60, inputs: int = 7, outputs: int = 6, seed: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, inputs, generator=generator, dtype=torch.float64)
    x = x @ torch.randn(inputs, inputs, generator=generator, dtype=torch.float64)
    return x, torch.randn(rows, outputs, generator=generator, dtype=torch.float64)


def losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Half the squared error of each example."""
    x, target = batch
    return 0.5 * ((model(x) - target) ** 2).sum(dim=1)


def removed(model: Parallel, x: Tensor, target: Tensor, layers: Sequence[int]) -> float:
    """By how much the mean loss falls when the maps of ``layers`` are fitted together: one least-squares problem over
    all their entries, written out as such.
    """
    with torch.no_grad():
        error = (target - model(x)).reshape(-1)
        design = torch.cat(
            [
                torch.einsum("nd,mp->npdm", x @ model.blocks[i].features, model.blocks[i].behind).reshape(
                    len(error), -1
                )
                for i in layers
            ],
            dim=1,
        )
        left = error - design @ torch.linalg.lstsq(design, error, driver="gelsd").solution
        return float((error @ error - left @ left) / 2 / len(x))


def exact_card(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], **options: object) -> LayerCard:
    """A card without ridge and without held-out batches, in float64, the outputs followed exactly."""
    settings = {"ridge": 0.0, "check": 0.0, "directions": 64, "timed": False, "dtype": torch.float64, "loss": losses}
    return measure(model, batches, **{**settings, **options})
