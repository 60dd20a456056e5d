"""Which linear maps of the layers an adapter goes to, by the words that users have for them.

Attention is told by what the architecture calls the modules around a map, since nothing in its shape tells it from the
feed-forward part.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from difflib import get_close_matches

from torch import nn

from ..errors import LayerSelectError
from ..utils.linear_kind import is_linear

ALL = "all-linear"
ATTENTION = "attention"
MLP = "mlp"
GROUPS = (ALL, ATTENTION, MLP)

_ATTENDS = re.compile(r"att(entio)?n", re.IGNORECASE)
#: Mixes tokens in another way, and so is no feed-forward part either.
_MIXES = re.compile(r"mixer|mamba|ssm|rwkv|rglru|recurrent|conv|fourier|fnet", re.IGNORECASE)


def split_targets(text: str) -> tuple[str, ...]:
    """The words of a list that is separated by commas.

    Raises:
        LayerSelectError: there is none, or one is empty.
    """
    words = tuple(word.strip() for word in text.split(","))
    if not all(words):
        raise LayerSelectError(
            f"--targets {text!r} names nothing between two commas: write {', '.join(GROUPS)}, or names such as "
            "q_proj,v_proj"
        )
    return words


def linear_names(model: nn.Module, layer_names: Sequence[str]) -> list[str]:
    """The qualified names of all linear maps inside the layers."""
    return [
        f"{layer}.{name}"
        for layer in layer_names
        for name, module in model.get_submodule(layer).named_modules()
        if name and is_linear(module)
    ]


def group_of(model: nn.Module, name: str, layer_names: Sequence[str]) -> str | None:
    """Whether a map is part of attention or of the feed-forward network; ``None``: of neither.

    Args:
        name: its qualified name.
        layer_names: the layers; what is around them says nothing.
    """
    layer = next(each for each in layer_names if name.startswith(each + "."))
    parts = name.removeprefix(layer + ".").split(".")
    words = list(parts)
    for end in range(1, len(parts)):
        words.append(type(model.get_submodule(".".join([layer, *parts[:end]]))).__name__)
    if any(_ATTENDS.search(word) for word in words):
        return ATTENTION
    return None if any(_MIXES.search(word) for word in words) else MLP


def chosen_maps(
    model: nn.Module, layer_names: Sequence[str], targets: Sequence[str], *, left_out: Collection[str] = ()
) -> list[str]:
    """The qualified names of the linear maps that ``targets`` mean.

    Args:
        targets: of :data:`GROUPS`, or names: the last one of a map (``q_proj``), or the end of its path
            (``self_attn.q_proj``).
        left_out: the last names of maps that are not taken.

    Raises:
        LayerSelectError: the layers hold no linear map, or one of the targets means none of them.
    """
    every = linear_names(model, layer_names)
    if not every:
        raise LayerSelectError(
            f"the layers of {type(model).__name__} (from {layer_names[0]!r} on) hold no linear map that LoRA could "
            "adapt; use --adapter none"
        )
    chosen: set[str] = set()
    for target in targets:
        found = {name for name in every if _means(target, name, model, layer_names)}
        if not found:
            raise LayerSelectError(_nothing(target, every, model, layer_names))
        chosen |= found
    left = [name for name in every if name in chosen and name.rpartition(".")[2] not in left_out]
    if not left:
        raise LayerSelectError(
            f"--targets {','.join(targets)} leaves no map of {type(model).__name__} that peft could adapt; use other "
            "targets, or --adapter none"
        )
    return left


def _means(target: str, name: str, model: nn.Module, layer_names: Sequence[str]) -> bool:
    if target == ALL:
        return True
    if target in (ATTENTION, MLP) and group_of(model, name, layer_names) == target:
        return True
    return name == target or name.endswith("." + target)


def _nothing(target: str, every: Sequence[str], model: nn.Module, layer_names: Sequence[str]) -> str:
    """What to say of a target that means no map: what would."""
    names = list(dict.fromkeys(name.rpartition(".")[2] for name in every))
    groups = [each for each in GROUPS if any(_means(each, name, model, layer_names) for name in every)]
    near = get_close_matches(target, [*groups, *names], 1)
    hint = f"did you mean {near[0]}? " if near else ""
    return (
        f"--targets {target} matches no linear map in the layers of {type(model).__name__}: {hint}"
        f"these would match: {', '.join(dict.fromkeys([*groups, *names]))}"
    )
