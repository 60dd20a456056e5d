"""The stacks of a model, recognised by their structure: containers of repeated blocks.

Nothing here knows the name of a model class. What is a container and what is a block is told by what holds what, and by
what has a forward pass of its own: a list of lists is a stack of stages, and its blocks are those of the inner lists,
which nobody calls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

#: A qualified name, and the module of that name.
Named = tuple[str, nn.Module]


@dataclass(frozen=True)
class Kind:
    """What a stack is made of.

    Attributes:
        container: ``nn.ModuleList``, or ``nn.Sequential``, which more often strings unlike modules together.
        composite: whether its blocks hold modules, or are bare ones.
    """

    container: type[nn.Module]
    composite: bool


#: From the one that most surely is a stack to the one that least is.
KINDS = (
    Kind(nn.ModuleList, True),
    Kind(nn.Sequential, True),
    Kind(nn.ModuleList, False),
    Kind(nn.Sequential, False),
)


@dataclass(frozen=True)
class Stack:
    """A container and its blocks, in forward order.

    Attributes:
        name: of the container; empty if that is the model.
        blocks: those of the inner lists, where the container is a list of lists.
        stages: how many children a list has if some of them are lists of blocks, 0 otherwise.
    """

    name: str
    blocks: list[Named]
    stages: int = 0


def find_stacks(model: nn.Module, *, trainable: bool = True) -> list[Stack]:
    """The outermost stacks of the surest kind that the model has.

    Strung-together bare modules (a head, the reparametrisation of a prompt) are no layers of a model that has better
    stacks, also where these are frozen.

    Args:
        trainable: only blocks with a trainable parameter count.
    """
    for kind in KINDS:
        stacks = stacks_of_kind(model, kind, trainable=trainable)
        if stacks and kind == KINDS[-1] and any(stacks_of_kind(model, k, trainable=False) for k in KINDS[:-1]):
            return []
        if stacks:
            return stacks
    return []


def stacks_of_kind(model: nn.Module, kind: Kind, *, trainable: bool) -> list[Stack]:
    """The outermost stacks of one kind."""
    stacks: list[Stack] = []
    known: set[str] = set()  # blocks
    around: set[str] = set()  # what they stand in
    for name, module in model.named_modules():
        if not isinstance(module, kind.container):
            continue
        # A list inside a block (experts, sub-layers) belongs to that block, and one around blocks was opened.
        if name in known or name in around or not known.isdisjoint(_ancestors(name)):
            continue
        blocks = _repeated_blocks(name, module, kind, trainable)
        if blocks:
            opened = kind.container is nn.ModuleList and any(_parent(block) != name for block, _ in blocks)
            stacks.append(Stack(name, blocks, len(module._modules) if opened else 0))
            known.update(block for block, _ in blocks)
            around.update(ancestor for block, _ in blocks for ancestor in _ancestors(block))
    stacks = [stack for stack in stacks if not _serves_stages(stack, stacks, model)]
    # One block is a stack only where nothing longer is found.
    return [stack for stack in stacks if len(stack.blocks) > 1] or stacks


def blocks_in(name: str, container: nn.Module) -> list[Named]:
    """The children of a container, those of its stages in their place.

    A stage is a list that nobody calls, with blocks in it (one of bare modules only is one block, written as a list);
    or, in a ``Sequential``, another one that repeats a class of blocks, and those beside it that hold the same class
    once.
    """
    repeated = {kind for child in container.children() for kind in _repeated_classes(child)}
    strung = isinstance(container, nn.Sequential)
    blocks: list[Named] = []
    for child_name, child in children_of(name, container):
        inner = {type(module) for module in child.children() if is_composite(module)}
        if inner and (_is_plain_list(child) or (strung and _is_strung(child) and inner & repeated)):
            blocks += blocks_in(child_name, child)
        else:
            blocks.append((child_name, child))
    return blocks


def children_of(name: str, module: nn.Module) -> Iterator[Named]:
    """The direct children of a module, each with its qualified name."""
    for key, child in module.named_children():
        yield (f"{name}.{key}" if name else key), child


def has_forward(module: nn.Module) -> bool:
    """Whether the module can be called. A list, a dict, or a plain ``nn.Module`` that only holds others, cannot."""
    return type(module).forward is not nn.Module.forward


def called_modules(block: nn.Module) -> list[nn.Module]:
    """What is called when a block computes its forward pass: itself, or the outermost modules in it that can be
    called.
    """
    if has_forward(block):
        return [block]
    return [module for child in block.children() for module in called_modules(child)]


def is_composite(module: nn.Module) -> bool:
    """Whether the module has children."""
    return any(True for _ in module.children())


def _ancestors(name: str) -> Iterator[str]:
    """``"a"`` and ``"a.b"`` of ``"a.b.c"``."""
    for place, letter in enumerate(name):
        if letter == ".":
            yield name[:place]


def is_inside(name: str, ancestor: str) -> bool:
    """Whether the qualified name ``name`` lies below ``ancestor``."""
    return name.startswith(ancestor + ".")


def trains(module: nn.Module) -> bool:
    """Whether a parameter of the module requires a gradient."""
    return any(p.requires_grad for p in module.parameters())


def _is_plain_list(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList) and not has_forward(module)


def _is_strung(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _repeated_classes(module: nn.Module) -> set[type[nn.Module]]:
    """The classes of composite modules that a ``Sequential`` holds more than once, itself or in its stages."""
    if not _is_strung(module):
        return set()
    counts = Counter(type(child) for child in module.children() if is_composite(child))
    inner = {kind for child in module.children() for kind in _repeated_classes(child)}
    return {kind for kind, count in counts.items() if count > 1} | ({nn.Sequential} if inner else set())


def _serves_stages(stack: Stack, stacks: list[Stack], model: nn.Module) -> bool:
    """A flat list beside a list of stages, with one entry for each: the modules between the stages (the embeddings of
    patches of hierarchical encoders). It does not run before the first stage, nor after the last one.
    """
    return not stack.stages and any(
        other.stages
        and _parent(other.name) == _parent(stack.name)
        and other.stages == len(model.get_submodule(stack.name)._modules)
        for other in stacks
    )


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _repeated_blocks(name: str, container: nn.Module, kind: Kind, trainable: bool) -> list[Named]:
    """The (trainable) blocks of ``container`` of its most frequent class and those of its stages; or of any class in a
    ``ModuleList`` of composite blocks: hybrid models mix attention and state-space blocks in one list.
    """
    blocks = [
        (child_name, child)
        for child_name, child in blocks_in(name, container)
        if any(p.requires_grad or not trainable for p in child.parameters()) and is_composite(child) == kind.composite
    ]
    if not blocks or (kind.container is nn.ModuleList and kind.composite):
        return blocks
    most_frequent, count = Counter(type(block) for _, block in blocks).most_common(1)[0]
    if count < 2:
        return []
    return [(n, block) for n, block in blocks if type(block) is most_frequent or _parent(n) != name]
