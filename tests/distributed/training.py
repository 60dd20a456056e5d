"""Training runs that one process and several make alike: the same model, the same batches, cut in equal parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from layerselect import FastSelector
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from tests.helpers.models import VOCABULARY, plain

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=True),
    "adamw-plain": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=False),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
}


def ranks() -> tuple[int, int]:
    """(this process, how many)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def loss_of(model: nn.Module, step: int, share: int | None = None, shares: int | None = None) -> Tensor:
    """The loss of this process's share of a batch of 8. The mean over equal shares is the loss of the batch."""
    if share is None or shares is None:
        share, shares = ranks()
    tokens = torch.randint(0, VOCABULARY, (8, 6), generator=torch.Generator().manual_seed(step)).chunk(shares)[share]
    return nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(-1, 1).flatten())


def wrap(engine: str, model: nn.Module, **options: Any) -> nn.Module:
    """``model`` in the hands of ``"ddp"``, ``"fsdp2"``, ``"fsdp2-whole"`` (all in one group) or (``"none"``) nobody."""
    if engine == "ddp":
        return DistributedDataParallel(model, **options)
    if engine == "fsdp2":
        for first in range(0, len(model.blocks), 2):  # two to a group: a step costs by the group
            fully_shard(list(model.blocks[first : first + 2]), **options)
    if engine.startswith("fsdp2"):
        fully_shard(model, **options)
    return model


def whole(tensor: Tensor) -> Tensor:
    """A copy of all of ``tensor``."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def train(
    engine: str,
    *,
    rule: str = "variance",
    optimizer: str = "adamw",
    steps: int = 15,
    wrapping: dict[str, Any] | None = None,
    micro_batches: int = 1,
    clip: float | None = None,
    build: Callable[[], nn.Module] = plain,
    set_to_none: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """Trains, and returns what was measured, chosen and learnt. Gradients are clipped before the selector's step."""
    model = wrap(engine, build(), **(wrapping or {}))
    selector = FastSelector(model, rule, **settings)
    stepper = OPTIMIZERS[optimizer](selector.trainable_parameters())
    selector.attach(stepper)
    rows: dict[str, list[Any]] = {"scores": [], "masks": [], "total_norm": [], "trained": []}
    for step in range(steps):
        rows["trained"].append(selector.trained())
        accumulate(model, engine, step, micro_batches)
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        selector.step()
        stepper.step()
        stepper.zero_grad(set_to_none)
        rows["scores"].append(selector.scores.clone())
        rows["masks"].append(selector.mask.clone())
        rows["total_norm"].append(selector.total_norm.clone())
    return {
        "scores": torch.stack(rows["scores"]),
        "masks": torch.stack(rows["masks"]),
        "total_norm": torch.stack(rows["total_norm"]),
        "trained": rows["trained"],
        "frequency": selector.frequency.clone(),
        "names": selector.layer_names,
        "mode": selector.mode,
        "capture": selector.capture,
        "on_device": selector._core.decides_on_device,
        "weights": [whole(p) for p in model.parameters()],
    }


def accumulate(model: nn.Module, engine: str, step: int, micro_batches: int) -> None:
    """The backward passes of one step; all but the last without communication."""
    for micro in range(micro_batches):
        last = micro == micro_batches - 1
        if engine.startswith("fsdp2"):
            model.set_requires_gradient_sync(last)
        loss = lambda: loss_of(model, step * micro_batches + micro) / micro_batches  # noqa: E731, B023
        if engine == "ddp" and not last:
            with model.no_sync():
                loss().backward()
        else:
            loss().backward()
