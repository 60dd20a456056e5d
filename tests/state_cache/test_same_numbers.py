"""With cached hidden states a training computes what it computes without them: losses, gradients, adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from layerselect.layers.find import layer_modules
from layerselect.state_cache import StateCache
from layerselect.state_cache.stacks import stacks_at
from torch import Tensor, nn

from tests.helpers.models import VOCABULARY, hugging_face, with_lora

MODELS = ["llama", "qwen3", "gemma3", "gpt2", "bert", "t5"]
#: Layers below the cut; T5 has two in each stack.
CUTS = {"t5": (1, 2, 3)}
Batch = dict[str, Tensor]


def batches(
    name: str, padding: str, *, seed: int = 0, sizes: Sequence[Sequence[int]] = ((5, 9, 7), (4, 8, 8), (6, 3, 9))
):
    """Batches of examples of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    examples = [[torch.randint(3, VOCABULARY, (n,), generator=generator) for n in lengths] for lengths in sizes]
    return [padded(name, batch, padding) for batch in examples]


def padded(name: str, examples: Sequence[Tensor], padding: str, longest: int = 0) -> Batch:
    """A batch, padded to its longest example or further."""
    length = max(longest, *map(len, examples))
    ids, mask = (
        torch.zeros(len(examples), length, dtype=torch.int64),
        torch.zeros(len(examples), length, dtype=torch.int64),
    )
    for row, example in enumerate(examples):
        place = slice(0, len(example)) if padding == "right" else slice(length - len(example), length)
        ids[row, place], mask[row, place] = example, 1
    batch = {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
    if padding == "left" and name not in ("bert", "t5"):
        batch["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
        batch["labels"][mask.cumsum(dim=1) == 1] = -100  # else padding would be asked for it
    if name == "t5":
        batch["labels"] = batch["labels"][:, :4].clone()
    return batch


def adapted(name: str, cut: int) -> nn.Module:
    """With LoRA, of which only that above the cut trains; in evaluation mode, so that nothing is random."""
    model = with_lora(hugging_face(name)).eval()
    for stack in stacks_at(model, layer_modules(model), cut):
        for block in stack.below:
            block.requires_grad_(False)
    return model


@dataclass
class Trained:
    """A run: of each step the loss and the gradient of all that trains, and the weights at the end."""

    losses: list[float]
    gradients: list[Tensor]
    weights: Tensor


def train(
    model: nn.Module,
    steps: Sequence[Batch],
    optimizer: Callable = torch.optim.AdamW,
    after: Callable[[], None] = lambda: None,
) -> Trained:
    trained = [p for p in model.parameters() if p.requires_grad]
    stepping = optimizer(trained, lr=1e-2)
    run = Trained([], [], torch.empty(0))
    for batch in steps:
        loss = model(**batch).loss
        loss.backward()
        run.losses.append(loss.item())
        run.gradients.append(torch.cat([p.grad.flatten() for p in trained]))
        stepping.step()
        stepping.zero_grad()
        after()
    run.weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    return run


def error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize(("name", "cut"), [(name, cut) for name in MODELS for cut in CUTS.get(name, (1, 3))])
def test_bit_for_bit_where_batches_are_padded_alike(name: str, cut: int, padding: str):
    steps = batches(name, padding) * 3
    expected = train(adapted(name, cut), steps)
    model = adapted(name, cut)
    with StateCache(model, cut) as state_cache:
        found = train(model, steps)
    assert (state_cache.filled, state_cache.read) == (9, 18)
    assert found.losses == expected.losses
    for ours, theirs in zip(found.gradients, expected.gradients, strict=True):
        assert theirs.any() and torch.equal(ours, theirs)
    assert torch.equal(found.weights, expected.weights)


@pytest.mark.parametrize("name", MODELS)
def test_to_rounding_under_other_padding(name: str):
    """Every epoch shuffles, and pads otherwise."""
    generator = torch.Generator().manual_seed(3)
    examples = [torch.randint(3, VOCABULARY, (n,), generator=generator) for n in (5, 9, 7, 4, 8, 3, 6, 9, 5)]
    padding = "left" if name in ("llama", "gpt2") else "right"
    steps = []
    for epoch in range(3):
        order = torch.randperm(len(examples), generator=generator).tolist()
        chosen = [[examples[i] for i in order[start : start + 3]] for start in range(0, len(order), 3)]
        steps += [padded(name, batch, padding, longest=9 + epoch) for batch in chosen]
    cut = 2
    expected = train(adapted(name, cut), steps, torch.optim.SGD)
    model = adapted(name, cut)
    with StateCache(model, cut) as state_cache:
        found = train(model, steps, torch.optim.SGD)
    assert (state_cache.filled, state_cache.read) == (9, 18)
    assert found.losses == pytest.approx(expected.losses, rel=1e-5)
    assert all(error(*pair) < 1e-5 for pair in zip(found.gradients, expected.gradients, strict=True))
    assert error(found.weights, expected.weights) < 1e-5
