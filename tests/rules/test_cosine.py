"""Cosine against similarities computed token by token, from hidden states that the test's own hooks caught."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from layerselect import Cosine, FastSelector, LayerSelectError, make_rule
from layerselect.layers.find import split_parameters
from torch import nn

from tests.helpers.models import VOCABULARY, hugging_face, plain, plain_loss, with_lora
from tests.helpers.simulation import variance_split
from tests.rules.recording import Recording


class Caught:
    """Input and output of every layer in every forward pass, as numpy arrays."""

    def __init__(self, model: nn.Module) -> None:
        modules = split_parameters(model).modules
        self.pairs: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in modules]
        for pairs, module in zip(self.pairs, modules, strict=True):
            module.register_forward_hook(lambda m, args, out, pairs=pairs: pairs.append((first(args), first(out))))

    def dissimilarities(self, masks: list[list[np.ndarray]]) -> list[float]:
        """1 - the mean similarity of each layer; ``masks[layer][call]`` says where tokens are."""
        result = []
        for pairs, layer_masks in zip(self.pairs, masks, strict=True):
            found = []
            for (before, after), mask in zip(pairs, layer_masks, strict=True):
                for row, column in zip(*np.nonzero(mask), strict=True):
                    a, b = before[row, column], after[row, column]
                    found.append(float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)))
            result.append(1.0 - math.fsum(found) / len(found))
        return result

    def clear(self) -> None:
        for pairs in self.pairs:
            pairs.clear()


def first(value) -> np.ndarray:
    while isinstance(value, tuple):
        value = value[0]
    return value.detach().double().numpy().copy()


def padded(seed: int, rows: int = 3, length: int = 7) -> dict[str, torch.Tensor]:
    """Token ids with padding at the right, of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(rows, length, dtype=torch.int64)
    for row in range(rows):
        mask[row, length - (row + seed) % 4 :] = 0 if (row + seed) % 4 else 1
    return {"input_ids": torch.randint(3, VOCABULARY, (rows, length), generator=generator), "attention_mask": mask}


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "bert", "opt"])
@pytest.mark.parametrize("mode", ["gate", "freeze"])
def test_tokens_are_compared_and_padding_is_not(name, mode):
    model = with_lora(hugging_face(name)).train()
    caught, base = Caught(model), Recording()
    with FastSelector(model, Cosine(base), mode=mode) as selector:
        optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
        selector.attach(optimizer)
        for step in range(4):
            caught.clear()
            base.seen.clear()
            batches = [padded(2 * step), padded(2 * step + 1, rows=2, length=5)]
            for batch in batches:  # two micro-batches
                loss = model(**batch, labels=batch["input_ids"]).loss
                loss.backward()
            selector.step()
            expected = caught.dissimilarities([[b["attention_mask"].numpy() for b in batches]] * selector.num_layers)
            assert base.seen == [pytest.approx(expected, rel=1e-4, abs=1e-6)]
            # In mode freeze the choice is that of the step to come.
            chosen = selector.selected() if mode == "gate" else selector.trained()
            assert set(chosen) == variance_split(base.seen[0])
            optimizer.step()
            optimizer.zero_grad()


def test_each_stack_of_an_encoder_decoder_has_its_own_padding():
    model = with_lora(hugging_face("t5")).train()
    caught, base = Caught(model), Recording()
    with FastSelector(model, Cosine(base), mode="observe") as selector:
        masks: list[list[np.ndarray]] = [[], [], [], []]
        for step, decoder_mask in enumerate((True, False)):
            batch, labels = padded(step, length=6), padded(step + 5, length=6)
            extra = {"decoder_attention_mask": labels["attention_mask"]} if decoder_mask else {}
            model(**batch, decoder_input_ids=labels["input_ids"], labels=labels["input_ids"], **extra).loss.backward()
            for layer in (0, 1):
                masks[layer].append(batch["attention_mask"].numpy())
            for layer in (2, 3):
                masks[layer].append(extra.get("decoder_attention_mask", torch.ones(3, 6)).numpy())
        assert [("decoder" in name) for name in selector.layer_names] == [False, False, True, True]
        selector.step()
    assert base.seen == [pytest.approx(caught.dissimilarities(masks), rel=1e-4, abs=1e-6)]


@pytest.mark.parametrize("layers", [2, 3, 12, 80])
def test_low_similarity_trains_for_any_number_of_layers(layers):
    model = plain(layers)
    caught, base = Caught(model), Recording()
    with FastSelector(model, Cosine(base), mode="observe") as selector:
        plain_loss(model).backward()
        selector.step()
        expected = caught.dissimilarities([[np.ones((4, 8))]] * layers)
        assert base.seen == [pytest.approx(expected, rel=1e-4, abs=1e-6)]
        assert set(selector.selected()) == variance_split(base.seen[0])
        top = int(np.argmax(expected))
        selector.rule = 'cosine:base="topk:k=1"'
        plain_loss(model).backward()
        selector.step()
        assert selector.selected() == [top]


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_measures_the_same(reentrant):
    seen = []
    for checkpointing in (False, True):
        model = with_lora(hugging_face("llama")).train()
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        base = Recording()
        with FastSelector(model, Cosine(base), mode="observe") as selector:
            for step in range(2):
                batch = padded(step)
                model(**batch, labels=batch["input_ids"]).loss.backward()
                selector.step()
                model.zero_grad()
        seen.append(base.seen)
    assert seen[0] == [pytest.approx(row, rel=1e-6) for row in seen[1]]


def test_evaluation_is_not_measured():
    model = with_lora(hugging_face("llama")).train()
    seen = []
    for evaluates in (False, True):
        base = Recording()
        with FastSelector(model, Cosine(base), mode="observe") as selector:
            batch = padded(0)
            model(**batch, labels=batch["input_ids"]).loss.backward()
            if evaluates:
                model.eval()
                with torch.no_grad():
                    model(**padded(1))
                model.train()
            selector.step()
        seen.append(base.seen)
    assert seen[0] == seen[1] and not math.isnan(seen[0][0][0])


def test_training_in_evaluation_mode_is_measured():
    model = plain().eval()
    base = Recording()
    with FastSelector(model, Cosine(base), mode="observe") as selector:
        plain_loss(model).backward()
        selector.step()
    assert len(base.seen) == 1 and all(math.isfinite(value) for value in base.seen[0])


def test_a_step_without_a_forward_pass_keeps_what_was_known():
    model = plain()
    base = Recording()
    with FastSelector(model, Cosine(base), mode="observe") as selector:
        plain_loss(model).backward()
        selector.step()
        selector.step()
        assert base.seen[0] == base.seen[1]
        handle = model.blocks[2].register_forward_pre_hook(lambda m, args: (args[0] * math.nan,))
        plain_loss(model, 1).backward()
        handle.remove()
        selector.step()
        # Not finite from there on: the old values stand, and the layers below have new ones.
        assert base.seen[2][2:] == base.seen[1][2:]
        assert all(new != old for new, old in zip(base.seen[2][:2], base.seen[1][:2], strict=True))


def test_hooks_come_and_go():
    model = plain()

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    selector = FastSelector(model, "cosine", mode="observe")
    assert hooks() >= 6
    selector.rule = "all"
    assert hooks() == 0
    selector.rule = "cosine"
    selector.close()
    assert hooks() == 0


class Halving(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8 >> i, 4 >> i), nn.ReLU()) for i in range(2))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def test_states_of_different_shapes_cannot_be_compared():
    model = Halving()
    with (
        FastSelector(model, "cosine", mode="observe"),
        pytest.raises(
            LayerSelectError, match=r"layer 'layers.0' turns hidden states of shape \(3, 8\) into .*\(3, 4\)"
        ),
    ):
        model(torch.randn(3, 8))


def test_bad_options():
    with pytest.raises(LayerSelectError, match="base='all' looks at no scores"):
        make_rule('cosine:base="all"')
    assert make_rule("cosine").config()["base"]["name"] == "variance"
