"""Which tokens of a batch are padding, for code that looks at hidden states inside a model."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .model_hooks import ModelHook

#: What the models of ``transformers`` and many others call it: [batch, tokens], not 0 where there is a token.
ARGUMENT = "attention_mask"


class PaddingMasks:
    """Listens to the modules around the layers for the masks that they are called with.

    A mask in front of a layer may have any form; somewhere further out it has the form [batch, tokens]. The innermost
    module around a layer that was called with such a mask says what the layer's padding is. One that takes a mask and
    was called without says that there is none: the decoder of an encoder-decoder is not judged by the encoder's mask.

    Args:
        model: the model.
        layers: modules inside it.
    """

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module]) -> None:
        names = {id(module): name for name, module in model.named_modules()}
        modules = dict(model.named_modules())
        # For each layer the modules around it that take a mask, the innermost first.
        self._around: dict[int, list[str]] = {}
        self._masks: dict[str, Tensor | None] = {}
        self._handles: list[Any] = []
        self._places = {name: _place(module) for name, module in modules.items()}
        for layer in layers:
            parts = names[id(layer)].split(".")
            around = [".".join(parts[:depth]) for depth in reversed(range(len(parts)))]
            self._around[id(layer)] = [name for name in around if self._places.get(name) is not None]
        for name in sorted({name for around in self._around.values() for name in around}):
            hook = ModelHook(partial(self._take, name))
            self._handles.append(modules[name].register_forward_pre_hook(hook, with_kwargs=True))

    def mask_for(self, layer: nn.Module, shape: torch.Size) -> Tensor | None:
        """``bool`` of ``shape``, true where there is a token; None if nothing is known of padding."""
        return self.around(layer).mask(shape)

    def around(self, layer: nn.Module) -> MasksAround:
        """The masks for one of the layers."""
        return MasksAround(self._around[id(layer)], self._masks)

    def close(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._masks.clear()

    def _take(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        place = self._places[name]
        if ARGUMENT in kwargs:
            self._masks[name] = _tensor(kwargs[ARGUMENT])
        elif place == _ANY_KEYWORD:
            self._masks.pop(name, None)  # it passes on what it is given, and was given none
        elif place is not None:
            self._masks[name] = _tensor(args[place]) if len(args) > place else None


class MasksAround:
    """What the modules around a layer were called with.

    Args:
        names: of these modules, the innermost first.
        masks: by name, live.
    """

    def __init__(self, names: Sequence[str], masks: dict[str, Tensor | None]) -> None:
        self._names, self._masks = tuple(names), masks

    def mask(self, shape: torch.Size) -> Tensor | None:
        """``bool`` of ``shape``, true where there is a token; None if nothing is known of padding."""
        for name in self._names:
            if name not in self._masks:
                continue
            mask = self._masks[name]
            if mask is None:
                return None
            if mask.shape == shape:
                return mask != 0
        return None


_ANY_KEYWORD = -1


def _place(module: nn.Module) -> int | None:
    """Where among its positional arguments a module takes the mask; None if it takes none."""
    parameters = inspect.signature(module.forward).parameters
    if ARGUMENT in parameters:
        return list(parameters).index(ARGUMENT)
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return _ANY_KEYWORD if takes_any else None


def _tensor(value: Any) -> Tensor | None:
    return value if isinstance(value, Tensor) else None
