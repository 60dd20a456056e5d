"""Flags that are off for as long as a layer computes: in the forward pass, and where a checkpoint computes it again."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from ..layers.requires_grad import switch_off, switch_on
from .input_gradients import tensors_in


class SwitchedPasses:
    """Switches off what must not take a gradient in a layer's pass, and on again behind it.

    Args:
        count: the number of layers, those that nobody follows included.
        to_switch: says what must not take a gradient in a pass of a layer.
        without_gradients: told of each pass of a layer that computes no gradient at all.
    """

    def __init__(
        self,
        count: int,
        to_switch: Callable[[int], Iterable[nn.Parameter]],
        without_gradients: Callable[[int], None],
    ) -> None:
        self._to_switch = to_switch
        self._without_gradients = without_gradients
        #: For each layer, the calls that it is in, and what each has switched off.
        self._frames: list[list[tuple[int, list[nn.Parameter]]]] = [[] for _ in range(count)]
        self._numbers = itertools.count()
        self._in_backward: dict[int, list[nn.Parameter]] = {}  # what is off until a backward pass ends

    def off(self, layer: int) -> list[nn.Parameter]:
        """What a pass of this layer has switched off at the moment."""
        return [p for _, off in self._frames[layer] for p in off]

    def heal(self) -> None:
        """Switches on what was off when an interruption (Ctrl-C) or an error left a layer in the middle of its pass."""
        for frames in self._frames:
            while frames:
                switch_on(frames.pop()[1])
        while self._in_backward:
            switch_on(self._in_backward.popitem()[1])

    def enter(self, layer: int, module: nn.Module, args: Any) -> None:
        """A hook in front of a module of the layer."""
        if torch.compiler.is_compiling():
            return
        frames = self._frames[layer]
        if any(inside == id(module) for inside, _ in frames):
            self.heal()  # it never returned from its last call
        if not torch.is_grad_enabled():
            self._without_gradients(layer)
            return
        frames.append((id(module), switch_off(self._to_switch(layer))))

    def leave(self, layer: int, module: nn.Module, args: Any, output: Any) -> None:
        """A hook behind a module of the layer."""
        frames = self._frames[layer]
        if not frames or frames[-1][0] != id(module):
            return
        switch_on(frames.pop()[1])
        # A checkpoint inside the module computes it again without its hooks, when the backward pass has come to it.
        # So it is, too, where this pass began inside a backward pass, as some losses have it (GradCache).
        for tensor in tensors_in(_listed(output)):
            if tensor.grad_fn is not None:
                tensor.grad_fn.register_prehook(functools.partial(self._enter_backward, layer))

    def _enter_backward(self, layer: int, _: Any) -> None:
        switched = switch_off(self._to_switch(layer))
        if switched:
            number = next(self._numbers)
            self._in_backward[number] = switched
            torch.autograd.Variable._execution_engine.queue_callback(lambda: self._leave_backward(number))

    def _leave_backward(self, number: int) -> None:
        switch_on(self._in_backward.pop(number, []))


def _listed(output: Any) -> list[Any]:
    """What a module returned, one by one."""
    if isinstance(output, dict):
        return list(output.values())
    return list(output) if isinstance(output, (tuple, list)) else [output]
