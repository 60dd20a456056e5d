"""Models that ``torch.compile`` runs: how it shows, also where they are compiled after a selector was built.

A compiled graph has it built in which parameters require a gradient. For each new combination there is another graph,
until Dynamo's limit is reached and the model runs uncompiled. So a compiled model is gated, not frozen.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..layers.model_hooks import ModelHook
from ..layers.stacks import called_modules

_LOOK_EVERY = 50  #: steps between two looks at the structure of the model
_PATIENCE = 2  #: steps in a row in which no layer's hook runs


def is_compiled(model: nn.Module) -> bool:
    """Whether some module of ``model`` shows that it is compiled: ``torch.compile(module)``, ``module.compile()``, or a
    ``forward`` that was replaced by a compiled one.
    """
    return any(map(_shows, model.modules()))


def _shows(module: nn.Module) -> bool:
    wrapper = getattr(_dynamo(), "OptimizedModule", None)
    if (wrapper is not None and isinstance(module, wrapper)) or getattr(
        module, "_compiled_call_impl", None
    ) is not None:
        return True
    return hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")


def compiled_autograd_on() -> bool:
    """Whether compiled autograd runs the next backward pass. It cannot run hooks in C++, so gradients are measured
    behind it.
    """
    dynamo = _dynamo()
    if dynamo is None:
        return False
    return bool(dynamo.config.compiled_autograd or dynamo.compiled_autograd.compiled_autograd_enabled)


def _dynamo() -> Any:
    """The compiler's front end; ``None`` where nobody has used it, since it takes seconds to load."""
    return sys.modules.get("torch._dynamo")


class CompileWatch:
    """Notices that the layers of a model are compiled, whoever compiled what and when.

    A hook on each layer learns it from the inside: while a compiler traces the layer, the hook is traced too, and the
    graph then tells this object, each time it runs, that it is one. A model that was compiled and called before the
    hooks were put there never runs them; that shows, too. A pass without gradients (evaluation, generation) and an
    export are no reason to gate.

    Args:
        model: the selector's.
        layers: the block of each layer.
    """

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module]) -> None:
        self._model = weakref.ref(model)
        self._told = _Told()
        self._steps = self._unheard = 0
        self._reason: str | None = None
        hook = ModelHook(_Look(self._told))
        self._handles: list[Any] = [
            m.register_forward_pre_hook(hook) for layer in layers for m in called_modules(layer)
        ]

    def look(self) -> str | None:
        """To be called in each step, behind the backward pass.

        Returns:
            Why what requires a gradient should not change any more in this model; ``None`` if nothing is known against
            it.
        """
        if self._reason is None:
            self._reason = self._why()
        return self._reason

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _why(self) -> str | None:
        told, model = self._told, self._model()
        if told.traced or (self._steps % _LOOK_EVERY == 0 and model is not None and is_compiled(model)):
            return "the model is compiled, and every change of what takes gradients would compile it again"
        self._steps += 1
        self._unheard = 0 if told.ran or not self._handles else self._unheard + 1
        told.ran = False
        if self._unheard == _PATIENCE:
            return (
                "the layers run without the hooks that were put on them, as in a model that was compiled and called "
                "before the selector was built"
            )
        return None


class _Told:
    """What the hooks have told. A graph writes to it and never reads it: reading would be a reason to compile again."""

    def __init__(self) -> None:
        self.traced = self.ran = False


class _Look:
    """The hook; it holds no more than it needs, so that a compiler has little to guard."""

    def __init__(self, told: _Told) -> None:
        self._told = told

    def __call__(self, module: nn.Module, args: Any) -> None:
        if not torch.is_grad_enabled():
            # What a reentrant checkpoint runs without gradients is a training pass all the same.
            if not torch.compiler.is_compiling() and module.training:
                self._told.ran = True
        elif not torch.compiler.is_compiling():
            self._told.ran = True
        elif not torch.compiler.is_exporting():
            self._told.traced = True
