"""Scores by map, against the gradients themselves."""

from __future__ import annotations

import math
from collections import defaultdict

import pytest
import torch
from layerselect import FastSelector
from peft import IA3Config, LoraConfig, get_peft_model
from torch import nn

from tests.helpers.models import hugging_face, plain, plain_loss

FORMS = {
    "l2": lambda gradients: math.sqrt(sum(float(g.double().square().sum()) for g in gradients)),
    "rms": lambda gradients: math.sqrt(
        sum(float(g.double().square().sum()) for g in gradients) / sum(g.numel() for g in gradients)
    ),
    "sqrt_sum": lambda gradients: math.sqrt(sum(math.sqrt(float(g.double().norm())) for g in gradients)),
}


def oracle(model: nn.Module, form: str, prefix: str, cut: str = "") -> dict[str, list[float]]:
    """By the last part but one of each parameter's name, or what stands before ``cut``."""
    found: dict[tuple[str, int], list[torch.Tensor]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if not name.startswith(prefix) or parameter.grad is None:
            continue
        layer, _, inside = name.removeprefix(prefix + ".").partition(".")
        inside = inside.partition(cut)[0] if cut else inside.rpartition(".")[0]
        found[inside, int(layer)].append(parameter.grad)
    layers = 1 + max(layer for _, layer in found)
    names = dict.fromkeys(name for name, _ in found)
    return {
        name: [FORMS[form](found[name, layer]) if (name, layer) in found else math.nan for layer in range(layers)]
        for name in names
    }


def check(got: dict[str, torch.Tensor], expected: dict[str, list[float]]) -> None:
    assert list(got) == list(expected)
    for name, values in expected.items():
        assert got[name].dtype == torch.float32
        assert got[name].tolist() == pytest.approx(values, rel=1e-5, nan_ok=True), name


@pytest.mark.parametrize("score", FORMS)
@pytest.mark.parametrize(("capture", "backend"), [("backward", "native"), ("step", "native"), ("step", "torch")])
def test_each_map_is_scored_as_a_layer_is(score, capture, backend):
    model = plain()
    with FastSelector(model, "all", mode="observe", score=score, capture=capture, backend=backend) as selector:
        plain_loss(model).backward()
        selector.step()
        by_map = selector.scores_by_map()
        check(by_map, oracle(model, score, "blocks"))
        together = torch.stack(list(by_map.values())).double().square()
        if score == "rms":
            sizes = torch.tensor([[32.0], [544.0], [528.0]], dtype=torch.float64)
            together = together * sizes / sizes.sum()
        torch.testing.assert_close(together.sum(dim=0).sqrt().float(), selector.scores)


def test_what_an_adapter_adds_belongs_to_its_map():
    tuned = {
        "lora": LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False, use_dora=True),
        "ia3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    }
    for kind, config in tuned.items():
        model = get_peft_model(hugging_face("llama"), config)
        tokens = torch.randint(0, 64, (2, 8))
        with FastSelector(model, "all", mode="observe") as selector:
            model(input_ids=tokens, labels=tokens).loss.backward()
            selector.step()
            check(selector.scores_by_map(), oracle(model, "l2", "base_model.model.model.layers", f".{kind}_"))


def test_layers_of_different_build_have_maps_of_their_own():
    model = plain(2)
    model.blocks[1][1] = nn.Identity()
    model.blocks[1][3] = nn.Linear(16, 16, bias=False)
    model.blocks[1].scale = nn.Parameter(torch.ones(()))
    with FastSelector(model, "all", mode="observe", layers="blocks") as selector:
        (plain_loss(model) * model.blocks[1].scale).backward()
        selector.step()
        found = selector.scores_by_map()
    assert list(found) == ["0", "1", "3", "scale"]
    assert found["1"].isnan().tolist() == [False, True]
    assert found["scale"].isnan().tolist() == [True, False]


def test_frozen_layers_keep_theirs_as_they_keep_their_scores():
    model = plain()
    with FastSelector(model, "topk:k=2", mode="freeze", probe_every=0) as selector:
        optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
        selector.attach(optimizer)
        for step in range(3):
            optimizer.zero_grad()
            plain_loss(model, step).backward()
            selector.step()
            together = torch.stack(list(selector.scores_by_map().values())).double().square().sum(dim=0).sqrt()
            torch.testing.assert_close(together.float(), selector.scores)
            optimizer.step()


def test_loss_scales_are_divided_out():
    model = plain()
    with FastSelector(model, "all", mode="observe") as selector:
        (plain_loss(model) * 1024).backward()
        selector.step(grad_scale=1024.0)
        got = selector.scores_by_map()
        model.zero_grad()
        plain_loss(model).backward()
        check(got, oracle(model, "l2", "blocks"))


def test_what_was_not_measured_is_unknown():
    model = plain()
    model.blocks[1][1].weight.register_hook(lambda gradient: gradient * math.inf)
    with FastSelector(model, "all", mode="observe") as selector:
        assert all(values.isnan().all() for values in selector.scores_by_map().values())
        plain_loss(model).backward()
        selector.step()
        unknown = torch.stack(list(selector.scores_by_map().values())).isnan().all(dim=0)
        assert unknown.tolist() == [False, True, False, False, False, False]
        state = selector.state_dict()
    with FastSelector(model, "all", mode="observe") as again:  # scores come with a state, what they consist of does not
        again.load_state_dict(state)
        assert all(values.isnan().all() for values in again.scores_by_map().values())


def test_a_map_that_takes_no_gradient_is_zero():
    model = plain()
    with FastSelector(model, "all", mode="observe") as selector:
        plain_loss(model).backward()
        for block in model.blocks:
            block[0].weight.grad = block[0].bias.grad = None
        selector.step()
        assert selector.scores_by_map()["0"].tolist() == [0.0] * 6
