"""Finds the layers of a model: the repeated blocks of its stacks, and the trainable parameters in them.

Nothing here knows the name of a model class. A stack is recognised by its structure: a container of
repeated blocks that hold trainable parameters (:mod:`layerselect.layers.stacks`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from ..errors import LayerSelectError
from ..utils.saved_words import shown
from .hints import check_is_module, finer_layers, likely_layers, listed, recurrent_stack, trained_elsewhere
from .stacks import Named, Stack, blocks_in, find_stacks, is_composite, is_inside, trains

logger = logging.getLogger(__name__)

#: What a caller may pass to name the modules that are the layers.
LayerSpec = str | Sequence[str] | Sequence[nn.Module] | None

# Wrappers (DistributedDataParallel, torch.compile, torch's CheckpointWrapper) put these in front of every name. Without
# them a state fits the same model in any number of processes.
_WRAPPER_PREFIX = re.compile(r"(^|\.)(module|_orig_mod|_checkpoint_wrapped_module)(?=\.)")


@dataclass(frozen=True)
class LayeredParameters:
    """The trainable parameters of a model, sorted into layers and the rest.

    Attributes:
        names: qualified names of the layers, in forward order.
        modules: the block of each layer.
        layers: for each layer, its own trainable parameters with their qualified names.
        outer: every other trainable parameter: embeddings, final norm, head, and parameters that
            several layers share (freezing one of these layers must not freeze the others).
    """

    names: list[str]
    modules: list[nn.Module]
    layers: list[list[tuple[str, nn.Parameter]]]
    outer: list[tuple[str, nn.Parameter]]


def split_parameters(model: nn.Module, layers: LayerSpec = None) -> LayeredParameters:
    """Sorts the trainable parameters of ``model`` into layers and outer parameters.

    Args:
        model: any module, wrapped by ``peft``, ``torch.compile`` or ``DistributedDataParallel`` or not.
        layers: ``None`` finds the stacks by structure. Otherwise the dotted path of a container
            (``"model.layers"``), a regular expression that matches the qualified name of each layer, or
            a list of names or modules. Where a model's stages have forward passes of their own (ConvNeXt, ResNet,
            Swin), the stages are the layers; the log (level ``INFO``) names the expression that makes their blocks the
            layers.

    Raises:
        LayerSelectError: no stack is found, ``layers`` matches nothing, or no layer has a trainable parameter.
    """
    check_is_module(model)
    found = _discover(model) if layers is None else _resolve(model, layers)
    owners = _owners(model, found)
    sorted_layers: list[list[tuple[str, nn.Parameter]]] = [[] for _ in found]
    outer: list[tuple[str, nn.Parameter]] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        owner = owners.get(id(parameter), {-1})
        if len(owner) == 1 and -1 not in owner:
            sorted_layers[next(iter(owner))].append((clean_name(name), parameter))
        else:
            outer.append((clean_name(name), parameter))

    kept = [i for i, parameters in enumerate(sorted_layers) if parameters]
    if not kept:
        raise LayerSelectError(_why_nothing_to_train(model, found))
    if len(kept) < len(found):
        logger.info(
            "%d of %d layers hold no trainable parameter and take no part in the selection",
            len(found) - len(kept),
            len(found),
        )
    return LayeredParameters(
        names=[found[i][0] for i in kept],
        modules=[found[i][1] for i in kept],
        layers=[sorted_layers[i] for i in kept],
        outer=outer,
    )


def all_stacks(model: nn.Module) -> list[list[nn.Module]]:
    """The blocks of every stack that structure shows, whether or not they hold trainable parameters."""
    return [[module for _, module in stack.blocks] for stack in find_stacks(model, trainable=False)]


def layer_modules(model: nn.Module, layers: LayerSpec = None) -> list[nn.Module]:
    """The blocks that :func:`split_parameters` would look for trainable parameters in, whether or not they hold any.

    Raises:
        LayerSelectError: no stack is found, or ``layers`` matches nothing.
    """
    if layers is not None:
        return [module for _, module in _resolve(model, layers)]
    blocks = [block for stack in all_stacks(model) for block in stack]
    if not blocks:
        raise LayerSelectError(f"{type(model).__name__} has no stack of repeated blocks: pass layers=")
    return blocks


def clean_name(name: str) -> str:
    """A qualified name without what wrappers put in front."""
    return _WRAPPER_PREFIX.sub(r"\1", name).replace("..", ".").lstrip(".")


def _why_nothing_to_train(model: nn.Module, found: list[Named]) -> str:
    """Why none of the layers that were found has a trainable parameter of its own."""
    layers = f"the {len(found)} layers of {type(model).__name__} (from {found[0][0]!r} on)"
    if len(found) == 1:
        layers = f"the layer {found[0][0]!r} of {type(model).__name__}"
    inside = {id(p) for _, module in found for p in module.parameters()}
    shared = [clean_name(name) for name, p in model.named_parameters() if p.requires_grad and id(p) in inside]
    if shared:
        return (
            f"The trainable parameters in {layers} are shared ({listed(shared)}), between layers or with other parts "
            "of the model, so that none can train without the others: pass layers= with modules that have parameters "
            "of their own"
        )
    return (
        f"There is no trainable parameter in {layers}, and {trained_elsewhere(model, clean_name)}: add adapters or set "
        "requires_grad before building the selector, or pass other layers="
    )


def _owners(model: nn.Module, layers: list[Named]) -> dict[int, set[int]]:
    """For each parameter, by identity, the layers that hold it; -1 means "outside every layer"."""
    inside: dict[int, int] = {}
    for index, (_, module) in enumerate(layers):
        for child in module.modules():
            inside.setdefault(id(child), index)
    owners: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), set()).add(inside.get(id(module), -1))
    # A module used by two layers is met once in the walk above, so count its layers here.
    for index, (_, module) in enumerate(layers):
        for parameter in module.parameters():
            owners[id(parameter)].add(index)
    return owners


def _discover(model: nn.Module) -> list[Named]:
    stacks = find_stacks(model)
    recurrent = recurrent_stack(model)
    bare = all(not is_composite(module) for stack in stacks for _, module in stack.blocks)
    if not stacks or (recurrent is not None and bare):
        raise LayerSelectError(_why_none(model, recurrent))
    layers = _unique((name, module) for stack in stacks for name, module in stack.blocks)
    logger.info(
        "found %d layers in %s",
        len(layers),
        ", ".join(f"{clean_name(s.name) or 'the model'} ({len(s.blocks)})" for s in stacks),
    )
    finer = finer_layers(layers, clean_name)
    if finer is not None:
        logger.info("these are stages; for their %d blocks as layers pass layers=%r", finer[1], finer[0])
    return layers


def _why_none(model: nn.Module, recurrent: str | None) -> str:
    """Why structure shows no layers, and what to do."""
    who = type(model).__name__
    frozen = find_stacks(model, trainable=False)
    if frozen and not any(map(trains, _modules(frozen))):
        return (
            f"The layers of {who} ({listed([clean_name(stack.name) for stack in frozen])}) hold no trainable "
            f"parameter, and {trained_elsewhere(model, clean_name)}: add adapters to the layers or set requires_grad "
            "before building the selector, or pass layers= with the modules to select among"
        )
    if recurrent is not None:
        return f"{who} has no stack of repeated blocks; {recurrent}, or pass layers= with the modules to select among"
    likely = [clean_name(name) for name, _ in likely_layers(model)]
    if likely:
        kind = type(model.get_submodule(likely_layers(model)[0][0])).__name__
        return (
            f"{who} has no stack of repeated blocks (an nn.ModuleList or nn.Sequential); seen were {len(likely)} "
            f"modules of class {kind}: pass layers={likely!r}, or the path of a container, a regular expression or "
            "another list of layers"
        )
    return (
        f"{who} has no stack of repeated blocks: pass layers= with the path of the container, a "
        "regular expression or the list of layers"
    )


def _modules(stacks: list[Stack]) -> Iterator[nn.Module]:
    return (module for stack in stacks for _, module in stack.blocks)


def _unique(layers: Iterator[Named]) -> list[Named]:
    seen: set[int] = set()
    unique = []
    for name, module in layers:
        if id(module) not in seen:
            seen.add(id(module))
            unique.append((clean_name(name), module))
    return unique


def _resolve(model: nn.Module, layers: LayerSpec) -> list[Named]:
    if isinstance(layers, str):
        found = _by_path(model, layers) or _by_expression(model, layers)
        if not found:
            raise LayerSelectError(f"layers={layers!r} matches no module of {type(model).__name__}; {_hint(model)}")
        return _unique(iter(found))
    if not isinstance(layers, Sequence) or not layers:
        raise LayerSelectError(f"layers={shown(layers)} is not a path, a regular expression or a list of layers")
    names = {id(module): name for name, module in model.named_modules()}
    found = []
    for item in layers:
        if isinstance(item, nn.Module):
            if id(item) not in names:
                raise LayerSelectError(
                    f"layers= holds a {type(item).__name__} that is not a module of {type(model).__name__}; "
                    f"{_hint(model)}"
                )
            found.append((names[id(item)], item))
            continue
        matches = _modules_named(model, item) if isinstance(item, str) else []
        if not matches:
            raise LayerSelectError(f"layers= names {shown(item)}, which is no module of the model; {_hint(model)}")
        found.append(matches[0])
    for name, _ in found:
        around = next((other for other, _ in found if is_inside(name, other)), None)
        if around is not None:
            raise LayerSelectError(
                f"layers= names {clean_name(name)!r} and {clean_name(around)!r}, one inside the other: name one of them"
            )
    return _unique(iter(found))


def _modules_named(model: nn.Module, path: str) -> list[Named]:
    """Modules whose cleaned name is ``path`` or, where none is, ends in it (``peft`` puts a prefix in front)."""
    cleaned = [(name, module) for name, module in model.named_modules() if name]
    exact = [(name, module) for name, module in cleaned if clean_name(name) == path or name == path]
    return exact or [(name, module) for name, module in cleaned if name.endswith("." + path)]


def _by_path(model: nn.Module, path: str) -> list[Named]:
    return [
        block
        for name, module in _modules_named(model, path)
        if isinstance(module, (nn.ModuleList, nn.Sequential, nn.ModuleDict))
        for block in blocks_in(name, module)
    ]


def _by_expression(model: nn.Module, expression: str) -> list[Named]:
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise LayerSelectError(
            f"layers={expression!r} is neither a path in the model nor a regular expression ({error}); {_hint(model)}"
        ) from error
    matches = [(name, m) for name, m in model.named_modules() if name and pattern.fullmatch(clean_name(name))]
    # A block matched together with its own children is one layer.
    return [(n, m) for n, m in matches if not any(is_inside(n, other) for other, _ in matches)]


def _hint(model: nn.Module) -> str:
    stacks = find_stacks(model) or find_stacks(model, trainable=False)
    containers = [repr(clean_name(stack.name)) for stack in stacks if stack.name]
    blocks = [clean_name(name) for name, _ in (stacks[0].blocks if stacks else likely_layers(model))]
    if containers:
        return "what would match: " + ", ".join(containers)
    if blocks:
        return f"what would match: {blocks!r}"
    return "no container of repeated blocks was found in it"
