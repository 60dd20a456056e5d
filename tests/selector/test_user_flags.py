"""Others switch gradients on and off: followed, kept off, or refused in a sentence."""

from __future__ import annotations

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from tests.helpers.models import plain, plain_loss

MODES = pytest.mark.parametrize("mode", ["gate", "freeze"])


def adapted(**more: object) -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=6,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=64,
    )
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **more)
    return get_peft_model(LlamaForCausalLM(config), lora)


def loss_of(model: nn.Module, seed: int = 0) -> torch.Tensor:
    tokens = torch.randint(3, 64, (4, 12), generator=torch.Generator().manual_seed(seed))
    return model(input_ids=tokens, labels=tokens).loss


def attached(model: nn.Module, rule: str, mode: str) -> tuple[FastSelector, torch.optim.Optimizer]:
    selector = FastSelector(model, rule, mode=mode)
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
    selector.attach(optimizer)
    return selector, optimizer


def weights(model: nn.Module, part: str) -> list[torch.Tensor]:
    """Of each layer, the parameters with ``part`` in their names, in one row."""
    rows: dict[int, list[torch.Tensor]] = {}
    for name, p in model.named_parameters():
        if part in name and "layers." in name:
            rows.setdefault(int(name.split("layers.")[1].split(".")[0]), []).append(p.detach().flatten().clone())
    return [torch.cat(rows[layer]) for layer in sorted(rows)]


def differ(a: torch.Tensor, b: torch.Tensor) -> bool:
    return not torch.equal(a, b)


@pytest.mark.parametrize("checkpointing", [None, False, True])
@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_reference_passes_change_nothing(when, checkpointing):
    """DPO, KTO, GRPO and RLOO with beta > 0: ``disable_adapter()`` in front of the policy's pass, behind it, and behind
    its backward pass.
    """

    def run(reference: bool) -> tuple[list[torch.Tensor], list[list[int]], list[int]]:
        model = adapted()
        if checkpointing is not None:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": checkpointing})
            model.enable_input_require_grads()
            model.train()
        for name, p in model.named_parameters():
            if "layers.0." in name:
                p.requires_grad_(False)
        selector, optimizer = attached(model, "topk:k=2", "freeze")
        chosen, counts = [], []

        def refer(now: str) -> None:
            if reference and when == now:
                with torch.no_grad(), model.disable_adapter():
                    loss_of(model)

        with selector:
            for seed in range(5):
                refer("before")
                loss = loss_of(model, seed)
                refer("between")
                loss.backward()
                refer("after")
                counts.append(sum(p.grad is not None for p in model.parameters()))
                selector.step()
                optimizer.step()
                optimizer.zero_grad()
                chosen.append(selector.selected())
        frozen = [p.requires_grad for name, p in model.named_parameters() if "layers.0." in name]
        assert not any(frozen)
        return weights(model, "lora_"), chosen, counts

    (w, chosen, counts), (w2, chosen2, counts2) = run(False), run(True)
    assert chosen == chosen2 and counts == counts2
    assert counts[1:] == [8] * 4  # two layers, four parameters each
    assert all(torch.equal(a, b) for a, b in zip(w, w2, strict=True))


@MODES
def test_what_the_user_freezes_stays_frozen(mode):
    model = plain()
    selector, optimizer = attached(model, "random:k=3", mode)
    for seed in range(8):
        if seed == 2:
            for block in model.blocks:
                block[1].weight.requires_grad_(False)
            kept = [block[1].weight.detach().clone() for block in model.blocks]
        plain_loss(model, seed).backward()
        selector.step()
        optimizer.step()
        optimizer.zero_grad()
    selector.close()
    assert all(torch.equal(block[1].weight, w) for block, w in zip(model.blocks, kept, strict=True))
    assert not any(block[1].weight.requires_grad for block in model.blocks)
    assert all(block[1].bias.requires_grad for block in model.blocks)


def test_what_the_user_freezes_stays_frozen_through_reference_passes():
    model = adapted()
    selector, optimizer = attached(model, "topk:k=3", "freeze")
    with selector:
        for seed in range(6):
            if seed == 2:
                kept = weights(model, "lora_")[5]
                for name, p in model.named_parameters():
                    if "layers.5." in name:
                        p.requires_grad_(False)
            loss = loss_of(model, seed)
            loss.backward()
            selector.step()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad(), model.disable_adapter():
                loss_of(model, seed)
    assert torch.equal(weights(model, "lora_")[5], kept)


@MODES
def test_a_layer_that_the_user_freezes_is_not_selected_and_comes_back(mode):
    model = plain()
    selector, optimizer = attached(model, "topk:k=6", mode)
    for seed in range(6):
        model.blocks[3].requires_grad_(seed not in (2, 3))
        plain_loss(model, seed).backward()
        selector.step()
        assert (3 in selector.selected()) == (seed not in (2, 3)), seed
        optimizer.step()
        optimizer.zero_grad()
    selector.close()


@MODES
def test_layers_that_begin_to_train_are_refused_by_name(mode):
    model = plain()
    for block in model.blocks[:3]:
        block.requires_grad_(False)
    selector, optimizer = attached(model, "topk:k=1", mode)
    plain_loss(model).backward()
    selector.step()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.add_param_group({"params": list(model.blocks[1].requires_grad_(True).parameters())})
    before = model.blocks[1][1].weight.detach().clone()
    plain_loss(model).backward()
    with pytest.raises(LayerSelectError, match=r"1 layers that had none .*'blocks\.1'"):
        selector.step()
    assert torch.equal(before, model.blocks[1][1].weight)
    selector.close()


@MODES
def test_parameters_that_begin_to_train_in_known_layers_are_followed(mode):
    """Progressive unfreezing inside of layers."""
    model = plain()
    for block in model.blocks:
        block[1].weight.requires_grad_(False)
    selector, optimizer = attached(model, "fixed:layers=[2,4]", mode)
    for seed in range(4):
        if seed == 2:
            new = [block[1].weight.requires_grad_(True) for block in model.blocks]
            optimizer.add_param_group({"params": new})
        before = [[p.detach().clone() for p in block.parameters()] for block in model.blocks]
        plain_loss(model, seed).backward()
        selector.step()
        norms = [
            sum(float(p.grad.square().sum()) for p in block.parameters() if p.grad is not None) ** 0.5
            for block in model.blocks
        ]
        for layer in (2, 4):
            assert float(selector.scores[layer]) == pytest.approx(norms[layer], rel=1e-5)
        optimizer.step()
        optimizer.zero_grad()
        pairs = zip(before, model.blocks, strict=True)
        moved = {i for i, (old, block) in enumerate(pairs) if any(map(differ, old, block.parameters()))}
        assert moved == {2, 4}
    assert len(selector.trainable_parameters()) == len(list(model.parameters()))
    selector.close()


@MODES
def test_another_adapter_is_followed_once_the_optimizer_has_it(mode):
    model = adapted()
    selector, optimizer = attached(model, "topk:k=2", mode)
    for seed in range(6):
        if seed == 3:
            model.add_adapter("b", LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
            model.set_adapter("b")
            optimizer.add_param_group({"params": [p for n, p in model.named_parameters() if ".b." in n]})
            old = weights(model, ".default.")
        before = weights(model, ".b.") if seed >= 3 else []
        loss_of(model, seed).backward()
        selector.step()
        optimizer.step()
        optimizer.zero_grad()
        if seed >= 4:
            pairs = zip(before, weights(model, ".b."), strict=True)
            moved = {layer for layer, (a, b) in enumerate(pairs) if not torch.equal(a, b)}
            assert moved <= set(selector.selected())
    assert all(torch.equal(a, b) for a, b in zip(old, weights(model, ".default."), strict=True))
    selector.close()


@MODES
def test_another_adapter_that_no_optimizer_has_is_named(mode):
    model = adapted()
    selector, _optimizer = attached(model, "topk:k=2", mode)
    model.add_adapter("second", LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    model.set_adapter("second")
    loss_of(model).backward()
    with pytest.raises(LayerSelectError, match="adapter 'second' is active in their place"):
        selector.step()
    selector.close()


def test_loose_parameters_are_switched_off_and_said_once(caplog):
    model = plain()
    model.blocks[0][1].bias.requires_grad_(False)
    selector, optimizer = attached(model, "all", "freeze")
    for seed in range(3):
        model.blocks[0][1].bias.requires_grad_(True)
        plain_loss(model, seed).backward()
        assert model.blocks[0][1].bias.grad is None
        selector.step()
        optimizer.step()
        optimizer.zero_grad()
        assert not model.blocks[0][1].bias.requires_grad
    assert sum("no attached optimizer holds" in record.message for record in caplog.records) == 1
    selector.close()
