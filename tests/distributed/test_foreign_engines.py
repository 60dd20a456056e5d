"""Engines that take gradients away, or parameters that no longer train: what is said names the cause."""

from __future__ import annotations

import re

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.distributed.foreign_engines import explain_missing
from torch import nn

from tests.helpers.models import hugging_face, plain, plain_loss, with_lora

OLD = "call selector.step() after loss.backward()"


def missing(selector) -> str:
    """What the selector's step says."""
    with pytest.raises(LayerSelectError) as caught:
        selector.step()
    text = str(caught.value)
    assert len(re.findall(r"\. ", text)) == 0  # one sentence
    return text


def foreign(package: str, module: nn.Module) -> nn.Module:
    kind = type("Engine", (nn.Module,), {"__module__": package})
    engine = kind()
    engine.module = module
    return engine


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("deepspeed.runtime.engine", "DeepSpeed keeps and steps.*fully_shard"),
        ("megatron.core.distributed.distributed_data_parallel", "Megatron keeps.*fully_shard"),
    ],
)
def test_models_in_the_hands_of_other_engines_are_refused(package, message):
    for model in (foreign(package, plain(2)), nn.ModuleDict({"inside": foreign(package, plain(2))})):
        with pytest.raises(LayerSelectError, match=message):
            FastSelector(model)


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("ds_id", 0, "DeepSpeed"),
        ("_hp_mapping", object(), "DeepSpeed"),
        ("main_grad", torch.zeros(1), "param.main_grad.*fusion"),
        ("_in_backward_optimizers", [object()], "steps inside the backward pass"),
    ],
)
@pytest.mark.parametrize("later", [False, True])
def test_parameters_whose_gradients_go_elsewhere_are_refused(attribute, value, message, later):
    model = plain(2)
    if later:
        with FastSelector(model, mode="gate") as selector:
            for p in model.parameters():
                setattr(p, attribute, value)
            assert re.search(message, missing(selector))
        return
    for p in model.parameters():
        setattr(p, attribute, value)
    with pytest.raises(LayerSelectError, match=message):
        FastSelector(model)


def test_engines_that_torch_brings_along():
    from torch.distributed.optim import _apply_optimizer_in_backward

    model = plain(2)
    with FastSelector(model, mode="gate") as selector:
        _apply_optimizer_in_backward(torch.optim.SGD, model.parameters(), {"lr": 0.1})
        plain_loss(model).backward()
        assert "an optimizer that torch.distributed.optim put on the parameters steps inside" in missing(selector)
    with pytest.raises(LayerSelectError, match="steps inside the backward pass"):
        FastSelector(model)


@pytest.mark.parametrize("mode", ["gate", "freeze", "observe"])
@pytest.mark.parametrize("capture", ["backward", "step"])
def test_an_optimizer_in_the_backward_pass_is_named(mode, capture):
    model = plain(2)
    with FastSelector(model, mode=mode, capture=capture) as selector:
        own = {p: torch.optim.SGD([p], lr=0.1) for p in selector.trainable_parameters()}

        def step(p):
            own[p].step()
            p.grad = None

        for p in own:
            p.register_post_accumulate_grad_hook(step)
        plain_loss(model).backward()
        text = missing(selector)
        assert "gone at the end of the backward pass" in text and OLD not in text


def test_gradients_that_were_seen_on_their_way():
    model = plain(2)
    followed = list(model.named_parameters())
    assert "gone at the end of the backward pass" in explain_missing(model, followed, taken=True)
    assert OLD in explain_missing(model, followed, taken=False)


def test_no_backward_pass_is_what_it_was():
    model = plain(2)
    with FastSelector(model) as selector:
        assert missing(selector) == (
            "no trainable parameter has a gradient: call selector.step() after loss.backward() and before "
            "optimizer.zero_grad()"
        )
        plain_loss(model).backward()
        model.zero_grad()
        assert OLD in missing(selector)


def test_parameters_that_somebody_froze_are_named():
    model = plain(2)
    with FastSelector(model, mode="gate") as selector:
        model.requires_grad_(False)
        text = missing(selector)
        assert "requires_grad" in text and "no other parameter has it" in text and OLD not in text
        model.register_parameter("late", nn.Parameter(torch.zeros(2)))
        assert "'late' and others train in their place" in missing(selector)


def test_other_parameters_that_train_are_followed():
    """Where no optimizer is attached, nobody can say that they do not count."""
    model = plain(2)
    late = nn.Parameter(torch.zeros(2))
    model.register_parameter("late", late)
    late.requires_grad_(False)
    with FastSelector(model, mode="gate") as selector:
        late.requires_grad_(True)
        late.sum().backward()
        selector.step()
        assert any(p is late for p in selector.trainable_parameters())
        assert float(selector.total_norm) == pytest.approx(2**0.5)


def test_another_adapter_is_named():
    peft = pytest.importorskip("peft")
    model = with_lora(hugging_face("llama"))
    with FastSelector(model, "topk:k=2", mode="gate") as selector:
        model.add_adapter("second", peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
        model.set_adapter("second")
        text = missing(selector)
        assert "adapter 'second' is active" in text and "requires_grad" in text and OLD not in text


def test_an_adapter_that_was_merged_away_is_named():
    pytest.importorskip("peft")
    model = with_lora(hugging_face("llama"))
    with FastSelector(model, "topk:k=2", mode="gate") as selector:
        model.merge_and_unload()
        text = missing(selector)
        assert "have left the model" in text and "merge_and_unload" in text and OLD not in text
