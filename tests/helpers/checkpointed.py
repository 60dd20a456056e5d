"""Models with gradient checkpointing, and what is asked of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from layerselect.layers.find import split_parameters
from torch import Tensor, nn

from tests.helpers.models import hugging_face, language_loss, with_lora

KINDS = pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
FUNCTION = "_gradient_checkpointing_func"
FAMILIES = ("llama", "gemma3", "gpt2", "bert", "t5")


def build(family: str, adapter: str = "lora", frozen_embedding: bool = True) -> nn.Module:
    """In training mode, so with dropout where the family has it."""
    model = hugging_face(family)
    for module in model.modules():
        if hasattr(module, "config"):
            module.config.use_cache = False  # checkpointing forbids it, and a cache changes layouts and so the rounding
    if adapter == "lora":
        model = with_lora(model)
    elif frozen_embedding:
        for name, parameter in model.named_parameters():
            # Positions too, and what stands between T5's two stacks.
            if any(part in name for part in ("embed", "shared", "wte", "wpe", "encoder.final")):
                parameter.requires_grad_(False)
    return model.train()


def enable(model: nn.Module, reentrant: bool) -> nn.Module:
    """By its name in transformers 5.2, or its older one."""
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": reentrant})
    return model


def disable(model: nn.Module) -> None:
    name = "activation" if hasattr(model, "activation_checkpointing_disable") else "gradient"
    getattr(model, f"{name}_checkpointing_disable")()


def frozen_by_hand(model: nn.Module, trained: list[int]) -> nn.Module:
    for index, layer in enumerate(split_parameters(model).layers):
        for _, parameter in layer:
            parameter.requires_grad_(index in trained)
    return model


def backward(model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model.zero_grad()
    language_loss(model, seed).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@contextmanager
def recomputed(blocks: list[nn.Module]) -> Iterator[Counter]:
    """Counts, by its position, each block's forward calls inside a backward pass."""
    calls: Counter = Counter()

    def note(index: int, module: nn.Module, args: tuple) -> None:
        if torch._C._current_graph_task_id() != -1:
            calls[index] += 1

    # The first module inside the block: hooks on the block itself may stand outside the checkpoint.
    first = [next(m for m in block.modules() if not list(m.children())) for block in blocks]
    handles = [module.register_forward_pre_hook(partial(note, i)) for i, module in enumerate(first)]
    yield calls
    for handle in handles:
        handle.remove()
