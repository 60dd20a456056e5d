"""A checkpoint function that recomputes nothing where no gradient flows."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import nn
from torch.utils.checkpoint import checkpoint

from ..layers.requires_grad import asking_gradient
from ..layers.view import RECOMPUTES
from .input_gradients import InputGradients, any_requires_grad, free_to_choose, is_floating

logger = logging.getLogger(__name__)

#: Where modules of ``transformers`` keep what they call to checkpoint, and whether they do.
FUNCTION = "_gradient_checkpointing_func"

# Arguments of the checkpoint function itself, not of what it runs.
_OPTIONS = (inspect.signature(checkpoint).parameters.keys() | {"preserve_rng_state"}) - {"function", "args", "kwargs"}


class Plan:
    """Which parameters take gradients in a pass: here, those that require one.
    :class:`~layerselect.modes.freeze.LayerFreezer` is another.
    """

    def trains(self, module: nn.Module) -> bool:
        """Whether some parameter of ``module`` takes a gradient."""
        return any(parameter.requires_grad for parameter in module.parameters())


class SelectiveCheckpoint:
    """Stands in the place of a module's checkpoint function and calls it only where a gradient will flow.

    Elsewhere it calls the block as it is: nothing in there needs a gradient, so nothing is saved, and nothing is
    recomputed. It decides by what requires a gradient in this very call.

    Args:
        original: the checkpoint function, often ``functools.partial(torch.utils.checkpoint.checkpoint, ...)``.
        inputs: tells borrowed gradients from real ones.
        plan: what takes gradients.
    """

    def __init__(self, original: Callable[..., Any], inputs: InputGradients, plan: Plan | None = None) -> None:
        self.original = original
        self.inputs = inputs
        self._plan = Plan() if plan is None else plan
        self._told = False

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not free_to_choose():
            return self.original(function, *args, **kwargs)
        function, args, kwargs = self._without_borrowed(function, args, kwargs)
        bound = function.keywords if isinstance(function, functools.partial) else {}
        module = _module_of(function)
        asked = any_requires_grad((*args, *kwargs.values(), *bound.values()))
        if not asked and module is not None and not self._plan.trains(module):
            with _switched_off_inside(module):
                return _plainly(function, args, kwargs)
        if self._is_reentrant(kwargs) and not any_requires_grad(args):
            # The reentrant kind computes no gradient at all, not even of parameters, unless an input requires one.
            position = next((i for i, value in enumerate(args) if is_floating(value)), None)
            if position is None:
                return self._without_recomputation(function, args, kwargs)
            args = (*args[:position], asking_gradient(args[position]), *args[position + 1 :])
        with self.inputs.checkpointing():
            output = self.original(function, *args, **kwargs)
        self.inputs.note_real(output if isinstance(output, (tuple, list)) else (output,))
        return output

    def _without_borrowed(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        args, kwargs = self.inputs.without_borrowed(args, kwargs) or (args, kwargs)
        if isinstance(function, functools.partial):  # transformers binds keywords before it checkpoints
            own = self.inputs.without_borrowed((), function.keywords)
            if own is not None:
                function = functools.partial(function.func, *function.args, **own[1])
        return function, args, kwargs

    def _without_recomputation(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not self._told:
            self._told = True
            logger.warning(
                "a block gets no floating-point tensor by position, so reentrant checkpointing would lose its "
                "gradients: it is not checkpointed; use_reentrant=False would do it"
            )
        return _plainly(function, args, kwargs)

    def _is_reentrant(self, kwargs: dict[str, Any]) -> bool:
        """Unless it is known not to be: an unknown function is taken for a reentrant one, which does no harm."""
        options = self.original.keywords if isinstance(self.original, functools.partial) else {}
        return kwargs.get("use_reentrant", options.get("use_reentrant")) is not False

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # A copy of the model has no selector; its pickle does not ask for this package.
        return cast, (object, self.original)


def _module_of(function: Callable[..., Any]) -> nn.Module | None:
    """The module that a function handed to a checkpoint runs, where it shows."""
    bound: tuple[Any, ...] = ()
    while isinstance(function, functools.partial):
        bound, function = (*function.args, *bound), function.func
    for candidate in (function, getattr(function, "__self__", None), *bound[:1]):
        if isinstance(candidate, nn.Module):
            return candidate
    return None


@contextmanager
def _switched_off_inside(block: nn.Module) -> Iterator[None]:
    """Some attention modules know of checkpointing too, and then make a constant require a gradient (T5's position
    bias).
    """
    inside = [module for module in block.modules() if module is not block and vars(module).get(RECOMPUTES)]
    for module in inside:
        setattr(module, RECOMPUTES, False)
    try:
        yield
    finally:
        for module in inside:
            setattr(module, RECOMPUTES, True)


def _plainly(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return function(*args, **{name: value for name, value in kwargs.items() if name not in _OPTIONS})
