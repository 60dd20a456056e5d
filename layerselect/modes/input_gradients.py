"""Gradients that a model's input is made to require though nothing below the layers learns from them.

Gradient checkpointing on a model with adapters is set up so that the output of the input embedding requires a gradient
(``output.requires_grad_(True)`` in a forward hook), though the embedding itself is frozen: the reentrant kind computes
no gradient otherwise. Such a gradient is *borrowed*: nobody wants it for itself. It makes the backward pass run down to
layer 0, whatever is frozen on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction


def free_to_choose() -> bool:
    """Whether what runs now is a forward pass whose graph may be changed.

    It is not where no gradients are recorded (the forward pass of a reentrant checkpoint is such a place), where a
    backward pass recomputes, inside a non-reentrant checkpoint (the recomputation must save what the forward pass
    saved), and under ``torch.compile``.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or torch._C._current_graph_task_id() != -1:
        return False
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return hooks is None or hooks[0].__module__ != "torch.utils.checkpoint"


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among ``values`` and in the tuples and lists among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from (item for item in value if isinstance(item, Tensor))


def is_floating(value: Any) -> bool:
    """Whether the value is a tensor of floating-point numbers."""
    return isinstance(value, Tensor) and value.is_floating_point()


def any_requires_grad(values: Iterable[Any]) -> bool:
    """Whether a tensor among the values, or inside them, requires a gradient."""
    return any(tensor.requires_grad for tensor in tensors_in(values))


@dataclass
class _Pass:
    """One forward pass of the model. Tensors stand under their ``id``, which is theirs while they are held here."""

    depth: int
    inputs: set[int]  #: where the storages of the model's inputs are that require no gradient
    born: dict[int, Tensor] = field(default_factory=dict)  #: came out of an embedding without a gradient
    real: dict[int, Tensor] = field(default_factory=dict)  #: are known to carry a gradient that somebody wants
    cut: torch.Size | None = None  #: the shape of the tensor that a borrowed gradient was last taken away from


class InputGradients:
    """Tells borrowed gradients from real ones, within one forward pass of the model at a time.

    A gradient counts as borrowed only on proof: the tensor, or every leaf of the graph that made it, is the output of
    an embedding *in this pass* or a view of an input of the model, required no gradient then, and carries no hook.
    Gradients of parameters, of prompts, of inputs that require one, and whatever lies behind a Python
    ``autograd.Function`` (which may hide parameters, as a reentrant checkpoint does) are real. Outside a pass nothing
    is borrowed.

    Attributes:
        untouched: whether borrowed gradients are to be left alone, since something in the model depends on them.
    """

    def __init__(self) -> None:
        self.untouched = False
        self._inside = 0
        self._pass: _Pass | None = None

    def enter(self, depth: int, values: Iterable[Any]) -> None:
        """A module ``depth`` levels deep is called with ``values``. The outermost one called begins the pass."""
        if self._pass is None or depth <= self._pass.depth:
            self._pass = _Pass(depth, _without_gradient(values)) if free_to_choose() else None

    def leave(self, depth: int) -> bool:
        """It has returned or raised. Whether that ends the pass."""
        ends = self._pass is not None and depth <= self._pass.depth
        if ends:
            self._pass = None
        return ends

    @property
    def in_pass(self) -> bool:
        return self._pass is not None

    @property
    def cut(self) -> torch.Size | None:
        """The shape of the tensor from which a borrowed gradient was last taken away in this pass, if one was."""
        return None if self._pass is None else self._pass.cut

    @contextmanager
    def checkpointing(self) -> Iterator[None]:
        """While a checkpoint function that we have called runs: what it does is none of the model's own doing."""
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    @property
    def in_own_checkpoint(self) -> bool:
        return self._inside > 0

    def note_birth(self, output: Any) -> None:
        """Takes note of an embedding's output, before any other hook sees it."""
        if (
            self._pass is not None
            and isinstance(output, Tensor)
            and not output.requires_grad
            and torch.is_grad_enabled()
        ):
            self._pass.born[id(output)] = output

    def note_real(self, values: Iterable[Any]) -> None:
        """Takes note that the gradients of these tensors are wanted, which spares looking into their graphs."""
        if self._pass is not None:
            self._pass.real.update((id(tensor), tensor) for tensor in tensors_in(values) if tensor.requires_grad)

    def is_borrowed(self, value: Any) -> bool:
        current = self._pass
        if current is None or not isinstance(value, Tensor) or not value.requires_grad or value.retains_grad:
            return False
        if id(value) in current.real:
            return False
        borrowed = _is_borrowed(value, current)
        if not borrowed:
            current.real[id(value)] = value
        return borrowed

    def without_borrowed(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The arguments of a call with borrowed gradients taken away; ``None`` if there is nothing to take."""
        if self.untouched:
            return None
        borrowed = {id(value): value for value in (*args, *kwargs.values()) if self.is_borrowed(value)}
        if not borrowed:
            return None
        if self._pass is not None:
            self._pass.cut = next(iter(borrowed.values())).shape

        def own(value: Any) -> Any:
            return value.detach() if id(value) in borrowed else value

        return tuple(own(value) for value in args), {name: own(value) for name, value in kwargs.items()}


def _without_gradient(values: Iterable[Any]) -> set[int]:
    """Where the storages are of the tensors that require no gradient, nor share them with one that does."""
    tensors = list(tensors_in(values))
    storages: dict[bool, set[int]] = {True: set(), False: set()}
    for tensor in tensors:
        if tensor.is_floating_point():
            storages[tensor.requires_grad].add(_storage(tensor))
    return storages[False] - storages[True] - {0}


def _storage(tensor: Tensor) -> int:
    """Where its storage is; 0 where it has none of the common kind."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return 0


def _is_borrowed(tensor: Tensor, current: _Pass) -> bool:
    def is_ours(leaf: Tensor) -> bool:
        if isinstance(leaf, nn.Parameter) or leaf._backward_hooks or leaf._post_accumulate_grad_hooks:
            return False  # who hooks a tensor wants its gradient
        return current.born.get(id(leaf)) is leaf or _storage(leaf) in current.inputs

    if tensor.grad_fn is None:
        return is_ours(tensor)
    seen = {tensor.grad_fn}  # the set holds the nodes, so none of them takes another's identity
    pending = [tensor.grad_fn]
    while pending:
        node = pending.pop()
        leaf = getattr(node, "variable", None)
        if isinstance(node, BackwardCFunction) or (leaf is not None and not is_ours(leaf)):
            return False
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                pending.append(following)
    return True
