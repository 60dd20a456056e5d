"""Cards of tiny models of Hugging Face: what is watched, padding, labels, and that the model is left as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from layerselect import LayerSelectError
from layerselect.card import measure
from layerselect.card.maps import find_maps
from torch import Tensor, nn

from tests.card.batches import classified, classifier, figures, texts
from tests.helpers.models import VOCABULARY, hugging_face, plain, with_lora


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gemma3", "bert", "t5"])
def test_every_family_has_a_card(name):
    card = measure(hugging_face(name), texts(), timed=False)
    assert len(card.layers) == 4
    assert card.data["unit"] == "tokens"
    for layer in card.layers:
        assert layer.resnorm > 0 and layer.gradient_norm > 0 and layer.energy > 0 and layer.condition >= 1
        assert layer.low < layer.fresh < layer.high
    pairs = np.array(card.coupling)
    assert (np.abs(pairs) <= 1).all() and (pairs.diagonal() == 1).all() and np.array_equal(pairs, pairs.T)
    assert np.abs(pairs[~np.eye(4, dtype=bool)]).min() > 0


@pytest.mark.parametrize(("problem", "multi"), [(None, False), ("multi_label_classification", True)])
def test_classifiers(problem, multi):
    card = measure(classifier(problem), classified(multi=multi), timed=False, directions=3)
    assert card.data["unit"] == "examples"
    assert card.data["fit_units"] == 16 and card.data["check_units"] == 8 and card.held_out
    assert card.data["coupling_samples"] == 8 * 3
    assert [m.name.removeprefix("bert.encoder.layer.0.") for m in card.layers[0].maps] == [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ]
    # Two of three batches are fitted to; tokens are counted, padding is not: 9 + 8 + 7 + 6.
    assert {m.rows for m in card.layers[0].maps} == {4 * 30}


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_statistics_are_those_of_autograd(name):
    """Sigma and C by hand, from the inputs and the weight gradients that autograd itself computes."""
    model, batches = hugging_face(name).double(), texts(3)
    card = measure(model, batches, ridge=0.01, check=0.0, timed=False, dtype=torch.float64)
    watched = find_maps(model)
    seen: dict[int, list[Tensor]] = {}
    flat = [linear for maps in watched.maps for linear in maps]
    for linear in flat:
        linear.module.register_forward_hook(
            lambda module, args, output: seen.setdefault(id(module), []).append(args[0].detach().flatten(0, 1))
        )
    count = sum(
        int((b["labels"] != -100)[:, 1:].sum() if name == "llama" else (b["labels"] != -100).sum()) for b in batches
    )
    model.eval()
    for batch in batches:
        (model(**batch).loss * batch["labels"][:, 1 if name == "llama" else 0 :].numel()).backward()
    for layer, maps in zip(card.layers, watched.maps, strict=True):
        for one, linear in zip(layer.maps, maps, strict=True):
            x = torch.cat(seen[id(linear.module)])
            cross = linear.module.weight.grad.T  # X'D over all batches
            sigma = x.T @ x / len(x)
            eps = 0.01 * sigma.trace() / len(sigma)
            resolved = torch.linalg.solve(sigma + eps * torch.eye(len(sigma), dtype=torch.float64), cross / len(x))
            assert one.resnorm**2 == pytest.approx(float((cross * resolved).sum() / count), rel=1e-8), one.name
            assert one.gradient_norm == pytest.approx(float(cross.norm() / count), rel=1e-8)
            assert one.rows == len(x)


@pytest.mark.parametrize("name", ["llama", "bert", "opt"])
def test_padding_does_not_count(name):
    model = hugging_face(name).double()
    short = texts(2, length=6)
    longer = []
    for batch in short:
        filled = {"input_ids": 5, "attention_mask": 0, "labels": -100}
        longer.append({key: nn.functional.pad(value, (0, 4), value=filled[key]) for key, value in batch.items()})
    options = {"check": 0.0, "timed": False, "dtype": torch.float64, "directions": 1}
    one, other = measure(model, short, **options), measure(model, longer, **options)
    for key in ("resnorm", "fresh", "gradient_norm", "energy", "condition"):
        assert figures(other, key) == pytest.approx(figures(one, key), rel=1e-8), key
    assert [m.rows for layer in other.layers for m in layer.maps] == [
        m.rows for layer in one.layers for m in layer.maps
    ]


def test_coupling_of_padded_classifiers_is_the_same():
    # Enumerated, so that nothing is drawn: coupling must not see the padding either.
    model = classifier().double()
    short = classified(2)
    longer = [
        {
            **b,
            "input_ids": nn.functional.pad(b["input_ids"], (0, 3), value=7),
            "attention_mask": nn.functional.pad(b["attention_mask"], (0, 3)),
        }
        for b in short
    ]
    options = {"check": 0.0, "timed": False, "dtype": torch.float64, "directions": 3}
    one, other = measure(model, short, **options), measure(model, longer, **options)
    assert np.array(other.coupling) == pytest.approx(np.array(one.coupling), abs=1e-9)


def test_the_model_is_left_as_it_was():
    model = with_lora(hugging_face("llama"))
    model.train()
    model.get_submodule("base_model.model.model.norm").eval()
    before = copy.deepcopy(model.state_dict())
    flags = [p.requires_grad for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    state = torch.random.get_rng_state()
    card = measure(model, texts(4), adapt_steps=1, gain_steps=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [p.requires_grad for p in model.parameters()] == flags
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    # Adapters are not watched, what is under them is.
    assert not any("lora" in m.name for layer in card.layers for m in layer.maps)
    assert len(card.layers[0].maps) == 7
    assert card.names[0].endswith("layers.0")


def test_hooks_and_flags_are_gone_after_an_error_too():
    model = hugging_face("llama").train()
    with pytest.raises(LayerSelectError, match="no label that counts"):
        batch = texts(1)[0]
        measure(model, [batch, {**batch, "labels": torch.full_like(batch["labels"], -100)}], check=0.0)
    assert all(p.requires_grad for p in model.parameters()) and model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_costs_are_measured_layer_by_layer():
    model = hugging_face("llama")
    card = measure(model, texts(4), rank=2)
    for layer in card.layers:
        assert layer.cost.forward_ms > 0 and layer.cost.backward_ms > 0 and layer.cost.saved_bytes > 0
        weights = sum(m.inputs * m.outputs for m in layer.maps)
        assert layer.cost.flops == 2 * 36 * weights  # 4 examples of 9 tokens
        assert layer.cost.adapter_parameters == 2 * sum(m.inputs + m.outputs for m in layer.maps)
    costs = card.costs
    assert costs.step_cost([False, False, False, True]) < costs.step_cost([True, False, False, False]) < 1
    # What is not measured is counted, the same every time.
    once, twice = (measure(model, texts(4), timed=False) for _ in range(2))
    assert once.to_dict() == twice.to_dict()
    assert once.layers[0].cost.forward_ms is None


def test_performance_is_what_adapting_a_layer_alone_does():
    card = measure(hugging_face("llama"), texts(8), timed=False, adapt_steps=20, adapt_lr=1e-2, rank=2)
    falls = figures(card, "performance")
    assert np.isfinite(falls).all() and len(set(falls)) == 4
    assert measure(hugging_face("llama"), texts(4), timed=False).layers[0].performance is None


def test_plain_models_with_a_loss_of_ones_own():
    model = plain(3)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        logits = model(batch)
        return nn.functional.cross_entropy(logits.flatten(0, 1), batch.roll(-1, 1).flatten(), reduction="none")

    batches = [torch.randint(0, VOCABULARY, (4, 8), generator=torch.Generator().manual_seed(i)) for i in range(4)]
    card = measure(model, batches, loss=loss, timed=False, likelihood="categorical")
    assert len(card.layers) == 3 and card.data["fit_units"] == 96
    assert measure(model, batches, loss=loss, timed=False, likelihood="none").coupling is None
    # A sum with its number says the same; and outputs that are not asked for do not count for the coupling.
    summed = measure(
        model, batches, loss=lambda m, b: (loss(m, b).sum(), b.numel()), timed=False, likelihood="categorical"
    )
    assert summed.to_dict() == card.to_dict()

    def first(batch: Tensor) -> Tensor:
        return (torch.arange(8) == 0).expand(4, 8)

    def first_loss(model: nn.Module, batch: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(batch)[:, 0], batch[:, 0], reduction="none")

    options = {"loss": first_loss, "timed": False, "likelihood": "categorical"}
    asked, unasked = measure(model, batches, counted=first, **options), measure(model, batches, **options)
    assert asked.layers == unasked.layers and asked.coupling != unasked.coupling


def test_targets_choose_the_maps():
    model = hugging_face("llama")
    card = measure(model, texts(4), timed=False, targets=r"self_attn\.(q|v)_proj")
    assert [m.name.rpartition(".")[2] for m in card.layers[1].maps] == ["q_proj", "v_proj"]
    with pytest.raises(LayerSelectError, match="its linear maps are: self_attn.q_proj, .*down_proj"):
        measure(model, texts(4), targets="query")


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        ([], {}, "no batches"),
        (None, {"max_memory": "many"}, "max_memory='many' is no size"),
        (None, {"max_memory": "1KB"}, "max_memory=1 KB is less than the .* KB that layer 'model.layers.0' alone needs"),
        (None, {"ridge": -1.0}, "ridge=-1.0 must not be negative"),
        (None, {"colour": 1}, "unexpected keyword argument 'colour'"),
        (None, {"likelihood": "poisson"}, "is not one of categorical"),
        (None, {"dtype": torch.bfloat16}, "too coarse"),
        ([{"input_ids": torch.zeros(2, 3, dtype=torch.long)}], {}, "returned no loss for a batch with input_ids"),
        ([torch.zeros(2, 3, dtype=torch.long)], {}, "a batch is a Tensor, not a mapping"),
        (None, {"ridge": 0.0}, "do not span its 16 dimensions|do not span its 32 dimensions"),
        (None, {"loss": lambda model, batch: model(**batch).loss * float("nan")}, "the loss of a batch is nan"),
        (None, {"layers": "model.blocks"}, "matches no module"),
    ],
)
def test_what_cannot_be_measured_is_said(batches, options, message):
    batches = texts(1, examples=1, length=4) if batches is None else batches
    with pytest.raises(LayerSelectError, match=message):
        measure(hugging_face("llama"), batches, **options)


class _Routed(nn.Module):
    """A block with a router that is given the tokens in one list, and an indexer that runs without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.map, self.router, self.indexer = nn.Linear(8, 8), nn.Linear(8, 2), nn.Linear(8, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        chosen = self.router(torch.cat([hidden.flatten(0, 1), hidden.flatten(0, 1)[:1]]))[:-1].softmax(-1)[:, :1]
        with torch.no_grad():
            chosen = chosen * self.indexer(hidden).flatten(0, 1).sigmoid()
        return hidden + self.map(hidden) * chosen.unflatten(0, hidden.shape[:2])


class _Routing(nn.Module):
    def __init__(self, *, time_first: bool = False) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(16, 8), nn.Linear(8, 16)
        self.layers = nn.ModuleList(_Routed() for _ in range(3))
        self.time_first = time_first

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens.T if self.time_first else tokens)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden.transpose(0, 1) if self.time_first else hidden)


def _of_tokens(model: nn.Module, tokens: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten(), reduction="none")


def test_maps_that_do_not_read_example_by_example_are_left_out_and_named(caplog):
    torch.manual_seed(0)
    batches = [torch.randint(0, 16, (4, 5)) for _ in range(4)]
    card = measure(_Routing(), batches, loss=_of_tokens, likelihood="categorical", timed=False)
    assert [[one.name for one in layer.maps] for layer in card.layers] == [[f"layers.{i}.map"] for i in range(3)]
    assert "6 linear maps (layers.0.router, ...) are left out of the card" in caplog.text
    with pytest.raises(
        LayerSelectError, match="read 4 examples where others read 21"
    ):  # what was asked for is not left out
        measure(_Routing(), batches, loss=_of_tokens, likelihood="categorical", timed=False, targets="map|router")


def test_examples_behind_the_tokens_are_refused():
    with pytest.raises(LayerSelectError, match="examples of a batch not in the first dimension .* read 5 x 4 vectors"):
        measure(_Routing(time_first=True), [torch.zeros(4, 5, dtype=torch.long)] * 4, loss=_of_tokens, timed=False)
