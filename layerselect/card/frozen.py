"""A model as a card needs it: nothing trains, nothing is dropped out, and the maps to watch take gradients all the
same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from ..layers.requires_grad import Freezer


@contextmanager
def all_trainable(model: nn.Module) -> Iterator[None]:
    """Every parameter takes gradients inside the block; behind it, those that did before."""
    with _gradients(model, True):
        yield


@contextmanager
def all_frozen(model: nn.Module, *, training: bool = False) -> Iterator[None]:
    """No parameter takes a gradient inside the block and every module is in evaluation mode, or in that of training;
    behind it all is as before.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        with _gradients(model, False):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def only_trainable(model: nn.Module, modules: Sequence[str]) -> Iterator[list[nn.Parameter]]:
    """The parameters of ``modules`` (qualified names), which alone take gradients inside the block, in evaluation
    mode.
    """
    chosen = [
        parameter
        for name, parameter in model.named_parameters()
        if any(name.startswith(module + ".") for module in modules)
    ]
    with all_frozen(model):
        freezer = Freezer([])
        freezer.follow([chosen])
        freezer.apply([True])
        try:
            yield chosen
        finally:
            freezer.apply([False])


@contextmanager
def _gradients(model: nn.Module, wanted: bool) -> Iterator[None]:
    freezer = Freezer([])
    freezer.follow([[parameter] for parameter in model.parameters() if parameter.is_floating_point()])
    before = freezer.active
    freezer.apply([wanted] * len(before))
    try:
        yield
    finally:
        freezer.apply(before)
