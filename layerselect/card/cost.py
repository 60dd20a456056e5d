"""What each layer costs: time, arithmetic, memory, the size of an adapter."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..costs.counted import LayerCosts
from ..costs.measured import CostMeter
from ..errors import LayerSelectError
from ..layers.model_hooks import ModelHook
from ..layers.view import ModelView
from ..utils.saved_activations import SavedActivations
from .figures import CostFigures
from .frozen import all_frozen
from .maps import gradients_from
from .memory import Survey

logger = logging.getLogger(__name__)

#: Passes that a :class:`~layerselect.costs.measured.CostMeter` takes: with a backward pass, and more in which it looks
#: at the clocks.
_PASSES, _LOOKS = 4, 3


def layer_costs(
    model: nn.Module, found: Survey, run: Callable[[], Tensor], *, rank: int, timed: bool = True
) -> tuple[list[CostFigures], LayerCosts]:
    """The costs of each layer for one batch, and those of a training step with adapters of rank ``rank`` on the watched
    maps.

    Times are measured in a frozen model, whose backward pass computes the gradients of inputs alone, as it does under
    adapters. What an adapter adds to a step is counted: three times its weights (its output, the gradients of its input
    and of its weights) against the weights of the layer, at the speed of the layer. Small matrices run slower than
    that.

    Args:
        run: the loss of the batch, with gradients; its rows are those of ``found``.
        rank: of a LoRA.
        timed: otherwise nothing is measured, and the step's costs are counted too: the same on every machine.
    """
    layers = found.layers
    weights = [sum(m.inputs * m.outputs for m in maps) for maps in layers.maps]
    adapters = [rank * sum(m.inputs + m.outputs for m in maps) for maps in layers.maps]
    flops = [
        2 * sum(rows * m.inputs * m.outputs for rows, m in zip(counts, maps, strict=True))
        for counts, maps in zip(found.rows, layers.maps, strict=True)
    ]
    flat = [linear for maps in layers.maps for linear in maps]
    measured = None
    saved: list[int | None] = [None] * len(weights)
    if timed:
        with gradients_from(flat), all_frozen(model, training=True), _own_draws(model):
            measured = _time(model, found, run)
            saved = [*_saved_bytes(model, layers.modules, run)]
    figures = [
        CostFigures(
            forward_ms=None if measured is None else 1e3 * measured.forward[layer],
            backward_ms=None if measured is None else 1e3 * measured.input_gradient[layer],
            flops=flops[layer],
            saved_bytes=saved[layer],
            adapter_parameters=adapters[layer],
        )
        for layer in range(len(weights))
    ]
    counted = tuple(float(number) for number in flops)
    base = measured or LayerCosts(counted, counted, (0.0,) * len(counted))
    added = [3 * adapters[i] / weights[i] * base.input_gradient[i] for i in range(len(weights))]
    return figures, LayerCosts(base.forward, base.input_gradient, tuple(added), base.rest)


def _time(model: nn.Module, found: Survey, run: Callable[[], Tensor]) -> LayerCosts | None:
    """Seconds of each layer; ``None`` where they cannot be measured."""
    layers = found.layers
    nothing: list[list[tuple[str, nn.Parameter]]] = [
        [] for _ in layers.names
    ]  # all that trains: there is nothing to wait for
    device = next(layers.modules[0].parameters()).device
    ones = (1.0,) * len(layers.names)
    results: list[LayerCosts] = []
    if len({p.device for module in layers.modules for p in module.parameters()}) > 1:
        logger.warning("the layers are on several devices, so their times are not measured: costs are counted")
        return None
    try:
        view = ModelView(model, layers.names, layers.modules, nothing, device)
        meter = CostMeter(view, LayerCosts(ones, ones, (0.0,) * len(ones)), results.append)
    except LayerSelectError:
        logger.warning("work on %s cannot be timed: costs are counted", device)
        return None
    try:
        for _ in range(_PASSES):
            run().backward()
        with torch.no_grad():
            for _ in range(_LOOKS):
                run()
    finally:
        meter.close()
    if not results:
        logger.warning(
            "the layers do not run once each, in their order, so their times are not measured: costs are counted"
        )
        return None
    return results[0]


def _saved_bytes(model: nn.Module, modules: Sequence[nn.Module], run: Callable[[], Tensor]) -> list[int]:
    """What autograd keeps for each layer, in one forward pass."""
    own = [*model.parameters(), *model.buffers()]
    counters = [SavedActivations(own) for _ in modules]

    def enter(counter: SavedActivations, module: nn.Module, args: Any) -> None:
        counter.__enter__()

    def leave(counter: SavedActivations, module: nn.Module, args: Any, output: Any) -> None:
        counter.__exit__(None, None, None)

    with ExitStack() as stack:
        for counter, module in zip(counters, modules, strict=True):
            stack.callback(module.register_forward_pre_hook(ModelHook(partial(enter, counter))).remove)
            stack.callback(module.register_forward_hook(ModelHook(partial(leave, counter))).remove)
        run()
    return [counter.bytes for counter in counters]


@contextmanager
def _own_draws(model: nn.Module) -> Iterator[None]:
    """Dropout inside the block draws nothing from the generators of others."""
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        yield
