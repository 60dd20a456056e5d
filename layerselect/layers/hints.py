"""What to tell someone whose layers were not found: what was seen in the model, and what to pass instead."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from ..errors import LayerSelectError
from .stacks import Named, children_of, find_stacks, is_composite, trains

#: More names than this are cut short in a sentence.
_SHOWN = 4
#: Of a stage's parameters, the share that its blocks have; downsampling has the rest.
_MOST_OF_A_STAGE = 0.5


def check_is_module(model: Any) -> None:
    """Raises LayerSelectError unless ``model`` is an ``nn.Module``; names the modules that it holds (SetFit's
    ``model_body``).
    """
    if isinstance(model, nn.Module):
        return
    if isinstance(model, type):
        raise LayerSelectError(f"the model is the class {model.__name__}: pass an object of it")
    what = f"the model is a {type(model).__name__}, which is no torch.nn.Module"
    held = {name: value for name, value in getattr(model, "__dict__", {}).items() if isinstance(value, nn.Module)}
    stacked = {name: value for name, value in held.items() if find_stacks(value, trainable=False)}
    held = stacked or held
    if not held:
        raise LayerSelectError(f"{what}: pass the module whose parameters are trained")
    told = " or ".join(f"its .{name} (a {type(value).__name__})" for name, value in held.items())
    raise LayerSelectError(f"{what}: pass {told}")


def recurrent_stack(model: nn.Module) -> str | None:
    """What to say of a stack of recurrent layers that is one module, as part of a sentence; ``None`` if there is
    none.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase) and module.num_layers > 1:
            kind = type(module).__name__
            return (
                f"its {kind} {name or '(the model)'!r} computes {module.num_layers} layers in one call, which cannot "
                f"be trained apart: write it as an nn.ModuleList of {module.num_layers} {kind}s with num_layers=1"
            )
    return None


def trained_elsewhere(model: nn.Module, clean: Callable[[str], str]) -> str:
    """The trainable parameters of a model, as part of a sentence."""
    names = [clean(name) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not names:
        return "no parameter of the model is trainable"
    return f"what trains is elsewhere ({listed(names)})"


def likely_layers(model: nn.Module) -> list[Named]:
    """Trainable modules of one class side by side, in the place where these hold most parameters: likely the layers of
    a model that has no container of them.
    """
    best: list[Named] = []
    most = 0
    for composite in (True, False):
        for name, module in model.named_modules():
            groups: dict[type[nn.Module], list[Named]] = {}
            for child_name, child in children_of(name, module):
                if is_composite(child) == composite and trains(child):
                    groups.setdefault(type(child), []).append((child_name, child))
            for group in groups.values():
                size = sum(p.numel() for _, child in group for p in child.parameters())
                if len(group) > 1 and size > most:
                    best, most = group, size
        if best:
            break
    return best


def listed(names: Sequence[str]) -> str:
    """Names in quotes, the later ones of many counted only."""
    shown = ", ".join(map(repr, names[:_SHOWN]))
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def finer_layers(blocks: Sequence[Named], clean: Callable[[str], str]) -> tuple[str, int] | None:
    """The pattern that matches the blocks inside layers that are stages, and how many it matches; ``None`` if they are
    none.

    A stage has most of its parameters in a list of blocks of one class, and these have norms of their own, which
    experts do not have.
    """
    patterns: set[str] = set()
    count = 0
    for name, stage in blocks:
        inner = _stage_blocks(name, stage)
        if not inner:
            return None
        patterns.update(re.sub(r"\\\.\d+(?=\\\.|$)", r"\\.\\d+", re.escape(clean(n))) for n, _ in inner)
        count += len(inner)
    return (patterns.pop(), count) if len(patterns) == 1 and count > len(blocks) else None


def _stage_blocks(name: str, stage: nn.Module) -> list[Named]:
    whole = sum(p.numel() for p in stage.parameters())
    for inner_name, inner in stage.named_modules(prefix=name):
        if inner is stage or not isinstance(inner, (nn.ModuleList, nn.Sequential)):
            continue
        blocks = list(children_of(inner_name, inner))
        size = sum(p.numel() for p in inner.parameters())
        alike = len({type(block) for _, block in blocks}) == 1
        if alike and size >= _MOST_OF_A_STAGE * whole and all(_has_norm(block) for _, block in blocks):
            return blocks
    return []


def _has_norm(block: nn.Module) -> bool:
    """Whether a composite module holds one with vectors only."""
    if not is_composite(block):
        return False
    leaves = (list(module.parameters(recurse=False)) for module in block.modules() if not is_composite(module))
    return any(parameters and all(p.ndim == 1 for p in parameters) for parameters in leaves)
