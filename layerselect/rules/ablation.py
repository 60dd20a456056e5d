"""What the loss would be if some layers had learned less: forward passes with part of the fine-tuning suppressed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed.engines import processes, put_shards_back
from ..errors import LayerSelectError
from ..layers.find import LayerSpec, split_parameters
from ..layers.model_hooks import ModelHook

logger = logging.getLogger(__name__)


class Ablation:
    """The loss on held-out training batches with each layer's fine-tuning scaled down: what rule ``ist`` measures
    importance by.

    With an adapter of ``peft``, of whatever kind, every adapted module of a layer gives base + scale (adapted - base),
    where base is its output without the adapter; for LoRA that is its scaling times ``scale``. A layer that trains
    weights of its own instead computes with initial + scale (now - initial); the ablation then keeps a copy of its
    initial weights, so build it before the training, and before weights of a checkpoint are loaded into the model.

    A call changes nothing that lasts: weights, gradients, ``requires_grad``, the modules' modes and the random
    generators of PyTorch are as before. Under ``torch.distributed`` the mean over all ranks is returned.

    Args:
        model: the module that the selector is built for; none of its layers frozen by a selector at the moment.
        loss: called as ``loss(model, batch)`` without gradients, the model in evaluation mode; returns the mean loss.
        batches: training batches that are left out of the training, on the device if ``loss`` does not move them there.
            Update number n uses batch n modulo their number. Never take validation data: the selection would be fitted
            to it.
        layers: as for the selector.

    Raises:
        LayerSelectError: no batches, or no layers.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[nn.Module, Any], Tensor],
        batches: Sequence[Any],
        layers: LayerSpec = None,
    ) -> None:
        if not batches:
            raise LayerSelectError("an ablation needs at least one training batch that is left out of the training")
        found = split_parameters(model, layers)
        self.layer_names: list[str] = found.names
        self._model = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        self._loss = loss
        self._batches = list(batches)
        self._suppressors: list[_Adapters | _Weights] = []
        for module, own in zip(found.modules, found.layers, strict=True):
            adapted = _outermost_adapters(module)
            self._suppressors.append(_Adapters(adapted) if adapted else _Weights([p for _, p in own]))
        kept = sum(s.kept_bytes for s in self._suppressors)
        if kept:
            logger.info("the ablation keeps %.1f MB of initial weights", kept / 1e6)

    def __call__(self, scales: Sequence[float], number: int) -> Tensor:
        """float32 [] on the device: the loss on the batch of update ``number`` with layer l scaled by ``scales[l]``.

        Raises:
            LayerSelectError: not one scale for each layer.
        """
        if len(scales) != len(self._suppressors):
            raise LayerSelectError(f"the ablation got {len(scales)} scales for {len(self._suppressors)} layers")
        devices = sorted({p.device.index or 0 for p in self._model.parameters() if p.device.type == "cuda"})
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.random.fork_rng(devices=devices))
            stack.enter_context(evaluating(self._model))
            for suppressor, scale in zip(self._suppressors, scales, strict=True):
                if scale != 1.0:
                    stack.enter_context(suppressor.scaled(scale))
            # The step of the optimizer that is to come must not find gathered parameters in the place of shards.
            stack.callback(put_shards_back, self._model)
            loss = self._loss(self._model, self._batches[number % len(self._batches)])
        loss = loss.detach().to(torch.float32).reshape(())
        if processes() > 1:
            loss = loss.clone()
            torch.distributed.all_reduce(loss)
            loss /= processes()
        return loss


class _Adapters:
    """Adapted modules of one layer."""

    kept_bytes = 0

    def __init__(self, modules: list[nn.Module]) -> None:
        self._modules = modules

    @contextmanager
    def scaled(self, scale: float) -> Iterator[None]:
        hook = ModelHook(partial(_scale_adapter, scale))
        handles = [module.register_forward_hook(hook, with_kwargs=True) for module in self._modules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class _Weights:
    """Weights of one layer that train themselves."""

    def __init__(self, weights: list[nn.Parameter]) -> None:
        self._weights = weights
        self._initial = [weight.detach().clone() for weight in weights]
        self.kept_bytes = sum(weight.nbytes for weight in self._initial)

    @contextmanager
    def scaled(self, scale: float) -> Iterator[None]:
        # Through .data: a graph that was built before and is still wanted must not take this for a change.
        now = [weight.detach().clone() for weight in self._weights]
        try:
            for weight, initial, current in zip(self._weights, self._initial, now, strict=True):
                weight.data.copy_(initial + scale * (current - initial))
            yield
        finally:
            for weight, current in zip(self._weights, now, strict=True):
                weight.data.copy_(current)


def _outermost_adapters(module: nn.Module) -> list[nn.Module]:
    """The adapted modules in ``module`` that are in no other one."""
    # Nothing is adapted by peft before it is loaded, and who does not use it need not have it.
    kind = getattr(sys.modules.get("peft.tuners.tuners_utils"), "BaseTunerLayer", None)
    if kind is None:
        return []
    if isinstance(module, kind):
        return [module]
    return [adapted for child in module.children() for adapted in _outermost_adapters(child)]


def _scale_adapter(scale: float, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """The forward hook of an adapted module: its output without the adapter, and ``scale`` times what the adapter
    adds.
    """
    # Not through enable_adapters(), which would change what requires a gradient.
    inside: list[Any] = [m for m in module.modules() if hasattr(m, "_disable_adapters")]
    flags = [m._disable_adapters for m in inside]
    if any(getattr(m, "merged", False) for m in inside):
        raise LayerSelectError(
            "an ablation cannot suppress an adapter that is merged: call unmerge_adapter() on the model first"
        )
    try:
        for m in inside:
            m._disable_adapters = True
        base = module.forward(*args, **kwargs)
    finally:
        for m, flag in zip(inside, flags, strict=True):
            m._disable_adapters = flag
    return _between(base, output, scale)


def _between(base: Any, adapted: Any, scale: float) -> Any:
    if isinstance(adapted, Tensor) and adapted.is_floating_point():
        return base + scale * (adapted - base)
    if isinstance(adapted, tuple):
        return tuple(_between(b, a, scale) for b, a in zip(base, adapted, strict=True))
    return adapted


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards for each module the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
