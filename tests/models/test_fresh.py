import pytest
import torch
from layerselect.models.fresh import fresh_modules, wake
from torch import nn


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense, self.out = nn.Linear(8, 8), nn.Linear(8, 2)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.norm = nn.LayerNorm(8)
        self.pooler = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.head = Head()


LAYERS = ["layers.0", "layers.1"]


@pytest.fixture
def model():
    return Model()


def test_a_trained_model_has_no_fresh_module(model):
    assert fresh_modules(model, [], LAYERS) == []


def test_a_zero_bias_gives_an_untrained_module_away(model):
    nn.init.zeros_(model.pooler[0].bias)
    assert fresh_modules(model, [], LAYERS) == ["pooler"]


def test_one_entry_off_zero_is_a_trained_bias(model):
    nn.init.zeros_(model.pooler[0].bias)
    with torch.no_grad():
        model.pooler[0].bias[3] = 1e-8
    assert fresh_modules(model, [], LAYERS) == []


def test_missing_parameters_are_fresh_and_the_outermost_whole_module_is_named(model):
    missing = [f"head.{name}" for name, _ in model.head.named_parameters()]
    assert fresh_modules(model, missing, LAYERS) == ["head"]
    assert fresh_modules(model, ["head.out.weight", "head.out.bias"], LAYERS) == ["head.out"]


def test_layers_and_norms_are_never_fresh(model):
    nn.init.zeros_(model.layers[0].bias)
    nn.init.zeros_(model.norm.bias)
    assert fresh_modules(model, ["layers.1.weight"], LAYERS) == []


def test_a_small_start_is_scaled_up_in_direction_unchanged(model):
    nn.init.normal_(model.pooler[0].weight, std=0.01)
    nn.init.zeros_(model.pooler[0].bias)
    before = model.pooler[0].weight.detach().clone()
    assert wake(model, ["pooler"]) == ["pooler.0.weight"]
    after = model.pooler[0].weight.detach()
    assert after.square().mean().sqrt().item() == pytest.approx(8**-0.5)
    assert torch.nn.functional.cosine_similarity(before.flatten(), after.flatten(), dim=0).item() == pytest.approx(1)


def test_what_is_large_enough_trained_or_not_square_keeps_its_weights(model):
    nn.init.normal_(model.pooler[0].weight, std=0.01)  # small, but its bias says it was trained
    nn.init.zeros_(model.head.dense.bias)  # fresh, but large enough
    nn.init.normal_(model.head.out.weight, std=0.01)
    nn.init.zeros_(model.head.out.bias)  # fresh and small, but a classifier
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert wake(model, ["pooler", "head"]) == []
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
