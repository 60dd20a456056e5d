"""Passes of a model that stop at a cut: they compute the hidden states that are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LayerSelectError
from ..rules.ablation import evaluating
from .skipping import Skipping
from .stacks import inside_adapters

Call = Callable[[], Any]


class _Reached(Exception):
    """The cut was reached: what lies above it need not be computed."""


def states_at_cut(
    model: nn.Module, call: Call, lasts: Sequence[nn.Module | None], skipping: Skipping
) -> list[Tensor | None]:
    """The hidden states behind the blocks ``lasts``, the highest below the cut in each stack (``None``: a stack above
    it).

    Args:
        call: calls ``model``, which is left where the last of them is reached.
    """
    found: list[Tensor | None] = [None] * len(lasts)

    def take(stack: int, block: nn.Module, args: Any, output: Any) -> None:
        found[stack] = skipping.form_of(block).hidden(output).detach()
        if all(state is not None or last is None for state, last in zip(found, lasts, strict=True)):
            raise _Reached

    handles = [b.register_forward_hook(partial(take, s)) for s, b in enumerate(lasts) if b is not None]
    try:
        with evaluating(model), torch.inference_mode(False), torch.no_grad():
            call()
    except _Reached:
        return found
    finally:
        for handle in handles:
            handle.remove()
    raise LayerSelectError(
        "the model was called and did not reach the cut: some of its blocks do not run in every pass"
    )


@dataclass(frozen=True)
class Survey:
    """What one whole pass shows.

    Attributes:
        states: the hidden states behind the last block below the cut, for each stack.
        outside: the modules that run before the cut and are none of the blocks below it.
    """

    states: list[Tensor | None]
    outside: list[nn.Module]


def survey(
    model: nn.Module,
    call: Call,
    lasts: Sequence[nn.Module | None],
    nexts: Sequence[nn.Module | None],
    skipping: Skipping,
) -> Survey:
    """Runs the model once whole and once with the blocks below the cut skipped, and compares.

    Args:
        lasts: of each stack the highest block below the cut.
        nexts: of each stack the lowest block above it; ``None`` where the whole stack is below, or none of it.

    Raises:
        LayerSelectError: the model calls a block more than once; or the hidden states do not go from block to block as
            they are; or it comes to another output when the blocks below the cut are skipped: then it uses what they
            compute elsewhere, too.
    """
    found: list[Tensor | None] = [None] * len(lasts)
    order: list[nn.Module] = []
    open_stacks = sum(last is not None for last in lasts)

    def note(module: nn.Module, args: Any) -> None:
        if any(last is not None and state is None for last, state in zip(lasts, found, strict=True)):
            order.append(module)

    def take(stack: int, block: nn.Module, args: Any, output: Any) -> None:
        if found[stack] is not None:
            raise LayerSelectError(
                f"{_called(model)} runs its layers more than once in a pass, and hidden states are kept for one run "
                "alone: call it once for each input, or train with state_cache='none'"
            )
        found[stack] = skipping.form_of(block).hidden(output)

    def arrives(stack: int, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not any(value is found[stack] for value in (*args, *kwargs.values())):
            raise LayerSelectError(
                f"{_called(model)} does not hand the hidden states from block to block as they are, so they cannot "
                "be given to it in the place of those that a block computes: train with state_cache='none'"
            )

    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.callback(setattr, skipping, "learn", False)
        skipping.learn = True
        for handle in (
            nn.modules.module.register_module_forward_pre_hook(note),
            *(b.register_forward_hook(partial(take, s)) for s, b in enumerate(lasts) if b is not None),
            *(
                b.register_forward_pre_hook(partial(arrives, s), with_kwargs=True, prepend=True)
                for s, b in enumerate(nexts)
                if b is not None
            ),
        ):
            stack.callback(handle.remove)
        whole = call()
    if sum(state is not None for state in found) != open_stacks:
        raise LayerSelectError(
            "some of the model's blocks below the cut do not run in every pass: train with state_cache='none'"
        )
    states = [None if state is None else state.detach() for state in found]
    with evaluating(model), torch.inference_mode(False), torch.no_grad():
        skipping.given = states
        try:
            skipped = call()
        finally:
            skipping.given = None
    _compare(model, whole, skipped)
    # What a pass makes for itself and drops (peft parametrises experts for the time of their pass) does not stand
    # before the cut.
    there = {id(module) for module in model.modules()}
    return Survey(states, list({id(module): module for module in order if id(module) in there}.values()))


def _called(model: nn.Module) -> str:
    """The class of the model, of the one in an adapter if there is one."""
    return type(inside_adapters(model)).__name__


def check_padding(model: nn.Module, call: Call, given: Sequence[Tensor | None], skipping: Skipping) -> None:
    """Compares the loss under hidden states that are zero where there is padding with that of the whole model.

    Raises:
        LayerSelectError: they differ.
    """
    with evaluating(model), torch.no_grad():
        whole = call()
        skipping.given = given
        try:
            skipped = call()
        finally:
            skipping.given = None
    if not all(_close(*pair) for pair in _pairs(whole, skipped) or [] if pair[0].ndim == 0):
        raise LayerSelectError(
            "the loss depends on padding: it asks for the first token behind padding on the left, which the model "
            "predicts from padding, and hidden states of padding are not kept; set that label to -100, pad on the "
            "right, or train with state_cache='none'"
        )


def _compare(model: nn.Module, whole: Any, skipped: Any) -> None:
    pairs = _pairs(whole, skipped)
    # On the CPU bit for bit; a GPU may choose other kernels where memory is laid out otherwise.
    if pairs is None or not all(_close(*pair) for pair in pairs):
        raise LayerSelectError(
            f"{_called(model)} gives another output when the layers below the cut are skipped: it uses what they "
            "compute elsewhere, too; train with state_cache='none'"
        )


def _pairs(one: Any, other: Any) -> list[tuple[Tensor, Tensor]] | None:
    """The floating-point tensors of two outputs side by side; ``None`` if they are not as many, or of other shapes."""
    ours, theirs = _tensors(one), _tensors(other)
    if [tensor.shape for tensor in ours] != [tensor.shape for tensor in theirs]:
        return None
    return list(zip(ours, theirs, strict=True))


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-5, atol=1e-6, equal_nan=True)


def _tensors(value: Any) -> list[Tensor]:
    """The floating-point tensors of an output; what a model remembers for the next token is none of it."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []
