"""A model whose optimizers are gated by a state on a device, beside a plain one that is trained in the same way."""

from __future__ import annotations

import torch
from layerselect.modes.device_gate import make_gate

from tests.cuda.test_core import LAYERS, loss_on
from tests.helpers.gated import (
    Alone,
    Build,
    Counting,
    copy_gradients,
    everything_of,
)
from tests.helpers.models import plain


def random_masks(count: int = 50) -> torch.Tensor:
    masks = torch.rand(count, LAYERS, generator=torch.Generator().manual_seed(3)) < 0.4
    masks[2], masks[4] = False, True
    return masks


class Gated:
    """A model whose optimizers are gated by ``state``, beside a plain one whose unselected layers get no gradient and
    whose every parameter has an optimizer of its own.
    """

    def __init__(self, device: torch.device, *builds: Build) -> None:
        self.device = device
        self.model, self.twin = plain().to(device), plain().to(device)
        self.layers = [list(block.parameters()) for block in self.model.blocks]
        self.state = {
            "gate": torch.zeros(LAYERS + 1, device=device),
            "mask": torch.ones(LAYERS, dtype=torch.bool, device=device),
        }
        held = list(self.model.parameters())
        self.optimizers = [build(held[i :: len(builds)]) for i, build in enumerate(builds)]
        held = list(self.twin.parameters())
        alone = Alone if Counting not in builds else lambda build, parameters: build(parameters)
        self.plain_optimizers = [alone(build, held[i :: len(builds)]) for i, build in enumerate(builds)]
        self.gates = [make_gate(optimizer, self.layers, self.state) for optimizer in self.optimizers]

    def everything(self, layer: int) -> list[object]:
        return [everything_of(optimizer, self.layers[layer]) for optimizer in self.optimizers]

    def step(self, step: int, mask: torch.Tensor) -> None:
        self.model.zero_grad(set_to_none=step % 3 == 0)
        loss_on(self.model, self.device, step).backward()
        self.state["mask"].copy_(mask)
        self.state["gate"][:LAYERS].copy_(1.0 - mask.float())
        chosen = mask.nonzero().flatten().tolist()
        copy_gradients(self.model, self.twin, chosen)
        before = [self.everything(layer) for layer in range(LAYERS)]
        for optimizer in self.optimizers + self.plain_optimizers:
            optimizer.step()
        assert all(p.grad is not None for p in self.model.parameters())
        for layer in range(LAYERS):
            assert (self.everything(layer) == before[layer]) == (layer not in chosen), (step, layer)
        for mine, plain_one in zip(self.optimizers, self.plain_optimizers, strict=True):
            assert everything_of(mine, self.model.parameters()) == everything_of(plain_one, self.twin.parameters()), (
                step
            )


#: Optimizers that keep their step count on the host unless told otherwise, also of parameters on a GPU.
COUNT_ON_THE_HOST = {"rmsprop", "adagrad"}
