"""Gradient checkpointing in mode ``freeze``: only from the lowest trained layer up.

As ``transformers`` and ``peft`` set checkpointing up, the input of layer 0 requires a gradient, so the backward pass
recomputes every block, and freezing saves nothing. Here the gradient asked for at the embedding is asked for at the
input of the lowest layer that trains instead, and only blocks through which a gradient flows are checkpointed.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from ..layers.find import all_stacks
from ..layers.model_hooks import ModelHook
from ..layers.requires_grad import asking_gradient
from ..layers.view import RECOMPUTES
from .input_gradients import InputGradients, any_requires_grad, free_to_choose, is_floating
from .selective_checkpoint import FUNCTION, Plan, SelectiveCheckpoint

logger = logging.getLogger(__name__)


class CheckpointBoundary:
    """Moves the start of checkpointing, and of the gradients that a model's input is made to require, up to the lowest
    layer that trains; until :meth:`close`.

    It follows what requires a gradient in each forward pass, so neither a new selection nor a user who switches
    checkpointing on or off need tell it. Both kinds of checkpointing work, and the blocks' outputs and gradients keep
    their bits.

    * A gradient that somebody wants (of a trainable embedding, a prompt, a tensor given to the model) is never taken
      away; the blocks that it flows through are checkpointed as without us.
    * What a hook makes of an embedding's output, a leaf that requires a gradient, cannot be told from a wish to read
      that gradient. Who wants it says so with ``output.register_hook``.
    * Models that call ``torch.utils.checkpoint`` in code of their own train as they did. Where that is the reentrant
      kind around whole blocks, or the input is made to require a gradient for it, no recomputation is saved.

    Args:
        model: the module that the selector was built for.
        blocks: the layers' modules.
        plan: what takes gradients in a pass.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[nn.Module], plan: Plan | None = None) -> None:
        self._inputs = InputGradients()
        self._plan = Plan() if plan is None else plan
        self._watched: set[bool] = set()  # in training mode, in evaluation mode: whether a pass was watched
        # The model holds this object through its hooks; that it does not hold the model lets both go at once.
        self._checkpointing = [weakref.ref(module) for module in model.modules() if hasattr(module, RECOMPUTES)]
        stacks = all_stacks(model)
        self._handles = []
        for depth, module in _on_the_way(model, blocks):
            enter = functools.partial(self._enter, depth)
            self._handles.append(module.register_forward_pre_hook(ModelHook(enter, traced=False), with_kwargs=True))
            leave = functools.partial(self._leave, depth)
            self._handles.append(module.register_forward_hook(ModelHook(leave, traced=False), always_call=True))
        for module in _embeddings(model):
            self._handles.append(module.register_forward_hook(ModelHook(self._note_birth, traced=False), prepend=True))
        # In front of the hooks of fully_shard, which pass what requires a gradient through a function of their own. Of
        # these two the second runs first.
        for module in _unique([*(block for stack in stacks for block in stack), *blocks]):
            self._handles.append(
                module.register_forward_pre_hook(ModelHook(self._ask, traced=False), with_kwargs=True, prepend=True)
            )
        for module in _unique([*(stack[0] for stack in stacks), *_up_to_the_first(model, blocks)]):
            self._handles.append(
                module.register_forward_pre_hook(ModelHook(self._cut, traced=False), with_kwargs=True, prepend=True)
            )
        self._wrap()

    def close(self) -> None:
        """Gives back every checkpoint function and removes every hook."""
        for handle in self._handles:
            handle.remove()
        for module in self._modules():
            function = vars(module).get(FUNCTION)
            if isinstance(function, SelectiveCheckpoint) and function.inputs is self._inputs:
                setattr(module, FUNCTION, function.original)
        self._handles, self._checkpointing = [], []

    def _modules(self) -> Iterator[nn.Module]:
        return (module for reference in self._checkpointing if (module := reference()) is not None)

    def _wrap(self) -> None:
        """Follows a user who has switched checkpointing on: that sets the functions anew."""
        for module in self._modules():
            function = vars(module).get(FUNCTION)
            if function is not None and not isinstance(function, SelectiveCheckpoint):
                setattr(module, FUNCTION, SelectiveCheckpoint(function, self._inputs, self._plan))

    # ------------------------------------------------------------------ hooks

    def _enter(self, depth: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._handles:  # not closed
            self._wrap()
            self._inputs.enter(depth, (*args, *kwargs.values()))

    def _leave(self, depth: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._inputs.leave(depth):
            self._watched.add(module.training)

    def _note_birth(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._inputs.note_birth(output)

    def _cut(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Before the first block of a stack: takes borrowed gradients away. Who makes the input require a gradient
        though transformers checkpoints nothing may do so for reentrant checkpoints of the model's own, so one pass is
        watched first.
        """
        if free_to_choose() and (_is_checkpointed(module) or module.training in self._watched):
            return self._inputs.without_borrowed(args, kwargs)
        return None

    def _ask(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Before each block: the lowest one that trains asks for the gradient that was taken away below it. Something
        that is checkpointed reentrantly inside it may depend on it.
        """
        if not self._inputs.in_pass or self._inputs.in_own_checkpoint:
            return None
        cut, asked = self._inputs.cut, any_requires_grad((*args, *kwargs.values()))
        if not torch.is_grad_enabled():
            if asked or cut is not None:
                self._leave_to_the_model(lost=not asked)
            return None
        if cut is None or asked or _is_checkpointed(module) or not free_to_choose() or not self._plan.trains(module):
            return None
        return _with_asking(args, kwargs, cut)

    def _leave_to_the_model(self, lost: bool) -> None:
        """A block runs without recording gradients, so the model checkpoints it reentrantly itself."""
        if not self._inputs.untouched:
            self._inputs.untouched = True
            logger.log(
                logging.WARNING if lost else logging.INFO,
                "the model checkpoints its layers itself, reentrantly: its input goes on to require a gradient, and "
                "freezing saves no recomputation%s",
                "; the gradients of this one backward pass may be incomplete" if lost else "",
            )


def _up_to_the_first(model: nn.Module, blocks: Sequence[nn.Module]) -> list[nn.Module]:
    """The first of ``blocks`` in each container, and what stands before it there: blocks without a trainable
    parameter.
    """
    ours = {id(block) for block in blocks}
    found: list[nn.Module] = []
    for parent in model.modules():
        children = list(parent.children())
        position = next((i for i, child in enumerate(children) if id(child) in ours), None)
        if position is not None:
            found += children[: position + 1]
    return found


def _is_checkpointed(module: nn.Module) -> bool:
    """Whether the module is about to call our checkpoint function, which then does what is to be done."""
    ours = isinstance(vars(module).get(FUNCTION), SelectiveCheckpoint)
    return ours and module.training and getattr(module, RECOMPUTES, False)


def _unique(modules: Iterable[nn.Module]) -> list[nn.Module]:
    return list({id(module): module for module in modules}.values())


def _on_the_way(model: nn.Module, blocks: Sequence[nn.Module]) -> list[tuple[int, nn.Module]]:
    """The modules that contain blocks, with their depth in the model, which is 0 for the model."""
    ours = {id(block) for block in blocks}
    names = [name for name, module in model.named_modules() if id(module) in ours and name]
    ancestors = {""} | {name[:i] for name in names for i, letter in enumerate(name) if letter == "."}
    return [(len(name.split(".")) if name else 0, model.get_submodule(name)) for name in sorted(ancestors)]


def _embeddings(model: nn.Module) -> list[nn.Module]:
    """The modules whose output a hook may make require a gradient, to turn on gradients of a model's input."""
    found: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            found.append(module)
        getter = getattr(module, "get_input_embeddings", None)
        if callable(getter):
            try:
                embedding = getter()
            except (NotImplementedError, AttributeError, TypeError):
                continue
            if isinstance(embedding, nn.Module):
                found.append(embedding)
    return _unique(found)


def _with_asking(
    args: tuple[Any, ...], kwargs: dict[str, Any], shape: torch.Size
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The arguments with the hidden state requiring a gradient: the first floating-point tensor given by position, or
    the first given by name that has ``shape``; ``None`` if there is neither.
    """
    for index, value in enumerate(args):
        if is_floating(value):
            return (*args[:index], asking_gradient(value), *args[index + 1 :]), kwargs
    for name, value in kwargs.items():
        if is_floating(value) and value.shape == shape:
            return args, {**kwargs, name: asking_gradient(value)}
    return None
