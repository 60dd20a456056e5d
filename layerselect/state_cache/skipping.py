"""Blocks that hand on hidden states which are there already, instead of computing them.

A model calls its blocks one after the other, and each hands its hidden states to the next. While states are *given*, a
skipped block returns them in the form in which it would return its own: as they are, or as the item of a tuple that it
has learned to put them at. What else a block returns is either an argument handed on, and is, or something that the
blocks behind it need (T5 computes the biases of its positions in the first block): such a block is run, without
gradients, and only its hidden states are replaced.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LayerSelectError
from ..rules.ablation import evaluating
from .cached import numerics_on

#: What an item of a block's output is: ``"hidden"``, the hidden states; ``(argument,)``, an argument that is handed on,
#: by its place or its name; ``None``, anything else.
Item = str | tuple[int | str] | None


@dataclass(frozen=True)
class OutputForm:
    """Where a block's output holds its hidden states, and where the rest of it comes from.

    Attributes:
        kind: ``Tensor``, ``tuple`` or ``list``.
        items: of a tuple or list.
        computed: the block has to be run, since it computes another item.
    """

    kind: type
    items: tuple[Item, ...] = ()
    computed: bool = False

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> OutputForm | None:
        """The form of the output of a call; ``None`` for one that holds no hidden states where we would look for
        them.
        """
        if isinstance(output, Tensor):
            return cls(Tensor)
        if type(output) not in (tuple, list):
            return None
        place = next(
            (i for i, item in enumerate(output) if isinstance(item, Tensor) and item.is_floating_point()), None
        )
        if place is None:
            return None
        given: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        arguments: dict[int, tuple[int | str]] = {id(value): (key,) for key, value in given if value is not None}
        items: list[Item] = []
        for i, item in enumerate(output):
            items.append("hidden" if i == place else None if item is None else arguments.get(id(item)))
        computed = any(made is None and item is not None for made, item in zip(items, output, strict=True))
        return cls(type(output), tuple(items), computed)

    def hidden(self, output: Any) -> Tensor:
        """The hidden states in an output of this form."""
        hidden: Tensor = output if self.kind is Tensor else output[self.items.index("hidden")]
        return hidden

    def with_hidden(self, given: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], computed: Any = None) -> Any:
        """An output with these hidden states; ``computed`` is the block's own, where it was run."""
        if self.kind is Tensor:
            return given

        def item(i: int, made: Item) -> Any:
            if made == "hidden":
                return given
            if isinstance(made, tuple):
                return args[made[0]] if isinstance(made[0], int) else kwargs[made[0]]
            return None if computed is None else computed[i]

        return self.kind(item(i, made) for i, made in enumerate(self.items))


class Skipping:
    """Takes the place of the blocks' ``forward``, until :meth:`close`.

    Args:
        stacks: for each stack of the model, the blocks below the cut; none for a stack that is above it.

    Attributes:
        given: for each stack, the hidden states behind the last of these blocks; ``None``: they compute.
        learn: notes the forms of the outputs of blocks that compute.
        numerics: those under which a block computed when they were last learned. A model may set up its own autocast
            inside.
        taken: for each stack, whether one of its blocks has handed on what is given.
    """

    def __init__(self, stacks: Sequence[Sequence[nn.Module]]) -> None:
        self.given: Sequence[Tensor | None] | None = None
        self.learn = False
        self.numerics: tuple[str, str | None, str] | None = None
        self.taken = [False] * len(stacks)
        self._forwards = [
            _Forward(block, self, stack, f"block {number}")
            for stack, blocks in enumerate(stacks)
            for number, block in enumerate(blocks)
        ]

    def form_of(self, block: nn.Module) -> OutputForm:
        """The learned form of a block's output."""
        form = next(f.form for f in self._forwards if f.block is block)
        assert form is not None
        return form

    def replaced(self) -> nn.Module | None:
        """A block whose ``forward`` somebody has replaced meanwhile."""
        return next((f.block for f in self._forwards if vars(f.block).get("forward") is not f), None)

    def close(self) -> None:
        """Gives the blocks their own ``forward`` back."""
        for forward in self._forwards:
            forward.close()
        self._forwards = []


class _Forward:
    """The ``forward`` of one block."""

    def __init__(self, block: nn.Module, skipping: Skipping, stack: int, name: str) -> None:
        self.block = block
        self.form: OutputForm | None = None
        self._skipping, self._stack, self._name = skipping, stack, name
        self._own: Callable[..., Any] | None = vars(block).get("forward")
        self._forward: Callable[..., Any] = block.forward
        vars(block)["forward"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = self._skipping.given
        if given is None:
            output = self._forward(*args, **kwargs)
            if self._skipping.learn:
                self._skipping.numerics = numerics_on(_device_of(self.block))
                self.form = OutputForm.of(args, kwargs, output)
                if self.form is None:
                    raise LayerSelectError(
                        f"{self._name} of {type(self.block).__name__} returns {type(output).__name__}, not hidden "
                        "states, so they cannot be kept: train with state_cache='none'"
                    )
            return output
        hidden = given[self._stack]
        assert self.form is not None and hidden is not None
        self._skipping.taken[self._stack] = True
        return self.form.with_hidden(hidden, args, kwargs, self._computed(args, kwargs) if self.form.computed else None)

    def _computed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with evaluating(self.block), torch.no_grad():
            return self._forward(*args, **kwargs)

    def close(self) -> None:
        if vars(self.block).get("forward") is self:
            del vars(self.block)["forward"]
            if self._own is not None:
                vars(self.block)["forward"] = self._own

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        """A copy of the model has no store: its blocks compute."""
        if self._own is not None:
            return copy.deepcopy(self._own, memo)
        block = memo.get(id(self.block), self.block)
        return types.MethodType(type(block).forward, block)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Nor has one that was saved."""
        return (_itself, (self._own,)) if self._own is not None else (getattr, (self.block, "forward"))


def _itself(forward: Callable[..., Any]) -> Callable[..., Any]:
    return forward


def _device_of(block: nn.Module) -> torch.device:
    return next((tensor.device for tensor in block.parameters()), torch.device("cpu"))
