"""Where a cut divides the stacks of a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from ..distributed.sharding import is_sharded
from ..errors import LayerSelectError
from ..layers.stacks import find_stacks
from .keys import BatchKeys, keys_of

#: What ``transformers`` calls the input of a part that reads images, videos or sound.
_OTHER_INPUTS = frozenset({"pixel_values", "pixel_values_videos", "input_features", "input_values", "audio_values"})


@dataclass(frozen=True)
class CutStack:
    """One stack of blocks.

    Attributes:
        below: its blocks below the cut, in forward order.
        above: the lowest block above it, if a block of the stack is below.
    """

    below: list[nn.Module]
    above: nn.Module | None


def stacks_at(model: nn.Module, layers: Sequence[nn.Module], cut: int) -> list[CutStack]:
    """Divides every stack into the blocks below and above layer ``cut``.

    A block is below if it comes before that layer, in the same stack or in an earlier one. Blocks without trainable
    parameters count, though they are no layers of a selector. A stack that reads images or sound, and has no layer, is
    left out, since it need not run.
    """
    lowest = layers[cut]
    stacks = [
        [block for _, block in stack.blocks]
        for stack in find_stacks(model, trainable=False)
        if any(block is layer for _, block in stack.blocks for layer in layers)
        or not _reads_else(model, stack.name, lowest)
    ]
    here = next((number for number, stack in enumerate(stacks) if any(block is lowest for block in stack)), None)
    if here is None:  # layers that the caller has named
        return [CutStack(list(layers[:cut]), lowest)]
    place = next(i for i, block in enumerate(stacks[here]) if block is lowest)
    divided = [CutStack(list(stack), None) for stack in stacks[:here]]
    divided.append(CutStack(list(stacks[here][:place]), lowest if place else None))
    return [*divided, *(CutStack([], None) for _ in stacks[here + 1 :])]


def _reads_else(model: nn.Module, name: str, lowest: nn.Module) -> bool:
    """Whether the stack of that name is in a part of the model without layers whose input is no text."""
    parts = name.split(".")
    for depth in range(1, len(parts)):
        around = model.get_submodule(".".join(parts[:depth]))
        reads = {getattr(around, "main_input_name", None), *_positional(around)[:1]}
        if reads & _OTHER_INPUTS and not any(module is lowest for module in around.modules()):
            return True
    return False


def check_model(model: nn.Module) -> None:
    """Checks that layers of the model can be skipped.

    Raises:
        LayerSelectError: the model's engine does not stand layers that are skipped.
    """
    if any(map(is_sharded, model.parameters())):
        raise LayerSelectError(
            "the parameters are sharded, and processes that skip layers would wait for those that do not: train with "
            "state_cache='none'"
        )
    for module in (model, *model.modules()):
        refuse_compiled(module)


def refuse_compiled(module: nn.Module, *, compiling: bool = False) -> None:
    """Checks that the module is not compiled.

    Raises:
        LayerSelectError: the module is compiled, or it is being compiled.
    """
    if (
        compiling
        or isinstance(module, torch._dynamo.OptimizedModule)
        or vars(module).get("_compiled_call_impl") is not None
    ):
        raise LayerSelectError(
            "the model is compiled, and layers that are skipped would compile it again: train with state_cache='none'"
        )


def argument_names(model: nn.Module) -> list[str]:
    """The names of the arguments that the model's call takes by position."""
    names = _positional(model)
    # Some of peft's wrappers hand on whatever they are given.
    return names or _positional(inside_adapters(model))


def named_inputs(names: Sequence[str], args: tuple[Any, ...]) -> dict[str, Any]:
    """The arguments that are given by position, by their names; one without a name is called by its number."""
    known = {*names}
    further = (f"argument {number}" for number in range(len(args)))
    return dict(zip([*names, *(name for name in further if name not in known)], args, strict=False))


class KeyKind(NamedTuple):
    """What the keys of a model's batches depend on besides the batch: see :func:`~layerselect.state_cache.keys_of`."""

    stacks: int
    shifts_labels: bool
    decoder_below: bool

    def keys_of(self, batch: Mapping[str, Any]) -> BatchKeys:
        """The keys of a batch."""
        return keys_of(batch, self.stacks, shifts_labels=self.shifts_labels, decoder_below=self.decoder_below)


def key_kind(model: nn.Module, stacks: Sequence[CutStack]) -> KeyKind:
    """The kind of the keys of a model that is cut so."""
    return KeyKind(len(stacks), makes_inputs_of_labels(model), len(stacks) > 1 and bool(stacks[1].below))


def inside_adapters(model: nn.Module) -> nn.Module:
    """The model that ``peft`` has put its adapters into; any other model itself."""
    unwrap: Callable[[], nn.Module] | None = getattr(model, "get_base_model", None)
    return model if unwrap is None else unwrap()


def makes_inputs_of_labels(model: nn.Module) -> bool:
    """Whether an encoder-decoder makes its decoder's inputs of the labels, as those of ``transformers`` do."""
    return hasattr(inside_adapters(model), "prepare_decoder_input_ids_from_labels")


def _positional(model: nn.Module) -> list[str]:
    parameters = inspect.signature(type(model).forward).parameters.values()
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][1:]
