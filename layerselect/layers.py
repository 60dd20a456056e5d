"""Finds the layers of a model: the repeated blocks of its stacks, and the trainable parameters in them.

Nothing here knows the name of a model class. A stack is recognised by its structure: a container of
repeated blocks that hold trainable parameters.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from .errors import LayerSelectError

logger = logging.getLogger(__name__)

#: What a caller may pass to say which modules are the layers.
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
            a list of names or modules.

    Raises:
        LayerSelectError: no stack is found, ``layers`` matches nothing, or no layer has a trainable parameter.
    """
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
        raise LayerSelectError(
            f"None of the {len(found)} layers of {type(model).__name__} (from {found[0][0]!r} on) has a trainable "
            "parameter of its own: add adapters or set requires_grad before building the selector"
        )
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
    return [[module for _, module in blocks] for _, blocks in _candidate_stacks(model, trainable=False)]


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


def _owners(model: nn.Module, layers: list[tuple[str, nn.Module]]) -> dict[int, set[int]]:
    """For each parameter, by identity, the layers it stands in; -1 stands for "outside every layer"."""
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


def _discover(model: nn.Module) -> list[tuple[str, nn.Module]]:
    stacks = _candidate_stacks(model)
    if not stacks:
        frozen = _candidate_stacks(model, trainable=False)
        if frozen:
            raise LayerSelectError(
                f"The layers of {type(model).__name__} ({frozen[0][0]!r}) hold no trainable parameter: add adapters or "
                "set requires_grad before building the selector"
            )
        raise LayerSelectError(
            f"{type(model).__name__} has no stack of repeated blocks: pass layers= with the path of the container, a "
            "regular expression or the list of layers"
        )
    layers = _unique((name, module) for _, blocks in stacks for name, module in blocks)
    logger.info(
        "found %d layers in %s",
        len(layers),
        ", ".join(f"{name or 'the model'} ({len(b)})" for name, b in stacks),
    )
    return layers


def _candidate_stacks(model: nn.Module, trainable: bool = True) -> list[tuple[str, list[tuple[str, nn.Module]]]]:
    """The outermost containers of repeated blocks, best kind first: composite blocks before bare modules,
    ``ModuleList`` before ``Sequential`` (which more often strings unlike modules together)."""
    for container, composite in (
        (nn.ModuleList, True),
        (nn.Sequential, True),
        (nn.ModuleList, False),
        (nn.Sequential, False),
    ):
        stacks: list[tuple[str, list[tuple[str, nn.Module]]]] = []
        for name, module in model.named_modules():
            if not isinstance(module, container):
                continue
            # A list inside a block (experts, sub-layers) belongs to that block.
            if any(_is_inside(name, block) for _, blocks in stacks for block, _ in blocks):
                continue
            blocks = _repeated_blocks(name, module, composite, trainable)
            if blocks:
                stacks.append((name, blocks))
        if stacks:
            # One block is a stack only where nothing longer is found.
            return [stack for stack in stacks if len(stack[1]) > 1] or stacks
    return []


def _repeated_blocks(name: str, container: nn.Module, composite: bool, trainable: bool) -> list[tuple[str, nn.Module]]:
    """The (trainable) children of ``container`` of its most frequent class, or of any class in a ``ModuleList``
    of composite blocks: hybrid models mix attention and state-space blocks in one list."""
    children = [
        (f"{name}.{key}" if name else key, child)
        for key, child in container.named_children()
        if any(p.requires_grad or not trainable for p in child.parameters()) and _is_composite(child) == composite
    ]
    if not children:
        return []
    if isinstance(container, nn.ModuleList) and composite:
        return children
    most_frequent, count = Counter(type(child) for _, child in children).most_common(1)[0]
    if count < 2:
        return []
    return [(child_name, child) for child_name, child in children if type(child) is most_frequent]


def _is_composite(module: nn.Module) -> bool:
    return any(True for _ in module.children())


def _is_inside(name: str, ancestor: str) -> bool:
    return name.startswith(ancestor + ".")


def _unique(layers: Iterator[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    seen: set[int] = set()
    unique = []
    for name, module in layers:
        if id(module) not in seen:
            seen.add(id(module))
            unique.append((clean_name(name), module))
    return unique


def _resolve(model: nn.Module, layers: LayerSpec) -> list[tuple[str, nn.Module]]:
    if isinstance(layers, str):
        found = _by_path(model, layers) or _by_expression(model, layers)
        if not found:
            raise LayerSelectError(f"layers={layers!r} matches no module of {type(model).__name__}; {_hint(model)}")
        return _unique(iter(found))
    if not isinstance(layers, Sequence) or not layers:
        raise LayerSelectError(f"layers={layers!r} is not a path, a regular expression or a list of layers")
    names = {id(module): name for name, module in model.named_modules()}
    found = []
    for item in layers:
        if isinstance(item, nn.Module):
            if id(item) not in names:
                raise LayerSelectError(
                    f"layers= holds a {type(item).__name__} that is not a module of {type(model).__name__}"
                )
            found.append((names[id(item)], item))
            continue
        matches = _modules_named(model, item)
        if not matches:
            raise LayerSelectError(f"layers= names {item!r}, which is no module of the model; {_hint(model)}")
        found.append(matches[0])
    return _unique(iter(found))


def _modules_named(model: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    """Modules whose cleaned name is ``path`` or, where none is, ends in it (``peft`` puts a prefix in front)."""
    cleaned = [(name, module) for name, module in model.named_modules() if name]
    exact = [(name, module) for name, module in cleaned if clean_name(name) == path or name == path]
    return exact or [(name, module) for name, module in cleaned if name.endswith("." + path)]


def _by_path(model: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    return [
        (f"{name}.{key}", child)
        for name, module in _modules_named(model, path)
        if isinstance(module, (nn.ModuleList, nn.Sequential))
        for key, child in module.named_children()
    ]


def _by_expression(model: nn.Module, expression: str) -> list[tuple[str, nn.Module]]:
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise LayerSelectError(
            f"layers={expression!r} is neither a path in the model nor a regular expression ({error}); {_hint(model)}"
        ) from error
    matches = [(name, m) for name, m in model.named_modules() if name and pattern.fullmatch(clean_name(name))]
    # A block matched together with its own children is one layer.
    return [(n, m) for n, m in matches if not any(_is_inside(n, other) for other, _ in matches)]


def _hint(model: nn.Module) -> str:
    containers = [clean_name(name) or "(the model)" for name, _ in _candidate_stacks(model)]
    if not containers:
        return "no container of repeated blocks with trainable parameters was found in it"
    return "what would match: " + ", ".join(repr(name) for name in containers)
