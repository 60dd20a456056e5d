"""Ablation: what it computes, and that it leaves no trace."""

from __future__ import annotations

import copy

import pytest
import torch
from layerselect import Ablation, FastSelector, LayerSelectError
from layerselect.models.bottleneck import BottleneckConfig
from peft import IA3Config, LoHaConfig, LoraConfig, VeraConfig, get_peft_model
from torch import nn

from tests.helpers.models import hugging_face, language_loss, plain, plain_loss, with_lora


def bits(model: nn.Module) -> list[bytes]:
    return [t.detach().numpy().tobytes() for t in [*model.parameters(), *model.buffers()]]


def shaken(model: nn.Module, by: float = 0.1) -> nn.Module:
    """The model with every trainable weight moved, so that no adapter is the identity."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += by * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("scale", [0.0, 0.25])
def test_lora_is_its_scaling(scale):
    model = with_lora(hugging_face("llama"))
    probe = Ablation(model, language_loss, [0])
    expected = copy.deepcopy(model)
    for layer in (1, 3):
        for module in expected.base_model.model.model.layers[layer].modules():
            if hasattr(module, "lora_A"):
                module.scaling["default"] *= scale
    want = language_loss(expected.eval()).detach()
    torch.testing.assert_close(probe([1.0, scale, 1.0, scale], 0), want, rtol=1e-6, atol=0)
    assert abs(float(want) - float(probe([1.0] * 4, 0))) > 1e-4


ADAPTERS = {
    "lora": LoraConfig(r=2, target_modules=["q_proj", "down_proj"]),
    "dora": LoraConfig(r=2, target_modules=["q_proj", "down_proj"], use_dora=True),
    "ia3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "loha": LoHaConfig(r=2, target_modules=["q_proj", "down_proj"]),
    "vera": VeraConfig(r=2, target_modules=["q_proj"]),
    "bottleneck": BottleneckConfig(size=4, target_modules=["o_proj", "down_proj"]),
    "bottleneck-parallel": BottleneckConfig(size=4, placement="parallel", target_modules=["o_proj", "down_proj"]),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_every_adapter_ends_where_it_is_disabled(kind):
    model = shaken(get_peft_model(hugging_face("llama"), copy.deepcopy(ADAPTERS[kind])), by=2.0)
    probe = Ablation(model, language_loss, [0])
    model.eval()
    with torch.no_grad():
        adapted = language_loss(model)
        with model.disable_adapter():
            base = language_loss(model)
    assert probe([1.0] * 4, 0) == adapted
    torch.testing.assert_close(probe([0.0] * 4, 0), base, rtol=1e-6, atol=0)
    assert abs(float(adapted) - float(base)) > 1e-4
    # One layer suppressed is neither, and of one adapted map the output is the mixture.
    assert float(probe([1.0, 0.25, 1.0, 1.0], 0)) not in (float(adapted), float(base))


def test_the_output_of_an_adapted_map_is_mixed():
    model = shaken(get_peft_model(hugging_face("llama"), copy.deepcopy(ADAPTERS["bottleneck"])))
    layer = model.base_model.model.model.layers[2].mlp.down_proj
    caught = []

    def loss(_, x):
        caught.append(layer(x))
        return caught[-1].sum()

    x = torch.randn(3, 32)
    probe = Ablation(model, loss, [x])
    probe([1.0, 1.0, 0.25, 1.0], 0)
    model.eval()
    adapted, base = layer(x), layer.base_layer(x)
    torch.testing.assert_close(caught[0], base + 0.25 * (adapted - base), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 0.25])
def test_layers_that_train_themselves_go_back_towards_their_start(scale):
    model = plain()
    start = copy.deepcopy(model)
    probe = Ablation(model, plain_loss, [3])
    shaken(model)
    expected = copy.deepcopy(model)
    with torch.no_grad():
        for layer in (0, 4):
            for now, initial in zip(expected.blocks[layer].parameters(), start.blocks[layer].parameters(), strict=True):
                now.copy_(initial + scale * (now - initial))
    scales = [scale, 1.0, 1.0, 1.0, scale, 1.0]
    assert probe(scales, 0) == plain_loss(expected, 3)
    assert probe([1.0] * 6, 0) == plain_loss(model, 3) != probe(scales, 0)


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("fails", [False, True])
def test_leaves_no_trace(kind, fails):
    model = with_lora(hugging_face("llama"), lora_dropout=0.5) if kind == "lora" else hugging_face("llama")
    losses = []

    def loss(m, seed):
        assert not torch.is_grad_enabled() and not any(module.training for module in m.modules())
        torch.rand(3)
        value = language_loss(m, seed)
        losses.append(value)
        if fails:
            raise RuntimeError("out of memory")
        return value

    probe = Ablation(model, loss, [0, 7])
    shaken(model)
    model.train()
    next(iter(model.modules())).training = True
    quiet = list(model.modules())[5]
    quiet.training = False
    language_loss(model).backward()
    torch.manual_seed(3)

    def everything():
        return (
            bits(model),
            [p.requires_grad for p in model.parameters()],
            [p.grad.tolist() if p.grad is not None else None for p in model.parameters()],
            [p.data_ptr() for p in model.parameters()],
            [p._version for p in model.parameters()],
            [m.training for m in model.modules()],
            [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
            [getattr(m, "_disable_adapters", None) for m in model.modules()],
            torch.get_rng_state().tolist(),
        )

    before = everything()
    for number in range(2):
        if fails:
            with pytest.raises(RuntimeError, match="out of memory"):
                probe([0.25, 1.0, 0.25, 1.0], number)
        else:
            probe([0.25, 1.0, 0.25, 1.0], number)
        after = everything()
        assert before == after
    assert not quiet.training and losses[0] != losses[1]


def test_batches_take_turns():
    seen = []

    def loss(model, batch):
        seen.append(batch)
        return torch.tensor(float(batch))

    probe = Ablation(plain(), loss, [10, 20, 30])
    assert [float(probe([1.0] * 6, number)) for number in (0, 0, 1, 2, 3, 7)] == [10, 10, 20, 30, 10, 20]
    assert seen == [10, 10, 20, 30, 10, 20]


def test_frozen_layers_do_not_disturb_it():
    """A probe is built before the selector freezes anything, and called while layers are frozen."""
    model = with_lora(hugging_face("llama"))
    probe = Ablation(model, language_loss, [0])
    want = float(probe([0.25] * 4, 0))
    with FastSelector(model, "fixed:layers=[3]", mode="freeze") as selector:
        assert selector.trained() == [3]
        assert float(probe([0.25] * 4, 0)) == want
        assert selector.trained() == [3]
        language_loss(model).backward()
        assert not any(p.grad is not None for n, p in model.named_parameters() if ".layers.1." in n)


def test_bad_use():
    with pytest.raises(LayerSelectError, match="at least one training batch"):
        Ablation(plain(), plain_loss, [])
    with pytest.raises(LayerSelectError, match="the ablation got 2 scales for 6 layers"):
        Ablation(plain(), plain_loss, [0])([1.0, 0.5], 0)
    model = with_lora(hugging_face("llama"))
    probe = Ablation(model, language_loss, [0])
    model.merge_adapter()
    with pytest.raises(LayerSelectError, match="merged: call unmerge_adapter"):
        probe([0.25] * 4, 0)
