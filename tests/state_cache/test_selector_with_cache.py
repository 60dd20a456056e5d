"""``FastSelector(state_cache="cached")``: where the cut is, what trains, what is saved."""

from __future__ import annotations

import itertools
import logging

import pytest
import torch
from layerselect import CostAware, FastSelector, LayerSelectError
from layerselect.costs.counted import LayerCosts, count_costs
from layerselect.rules import ModelView
from layerselect.state_cache import StateStore
from layerselect.state_cache.cut import costs_above
from torch import nn

from tests.helpers.models import VOCABULARY, hugging_face, plain, with_lora
from tests.state_cache.test_same_numbers import Batch, batches

LAYERS = 4


def model(name: str = "llama") -> nn.Module:
    """LoRA on a tiny decoder, and a head that trains outside the layers; in evaluation mode, so that nothing is
    random.
    """
    adapted = with_lora(hugging_face(name)).eval()
    adapted.get_base_model().get_output_embeddings().weight.requires_grad_(True)
    return adapted


class Run:
    """A model that trains with a selector."""

    def __init__(self, trained: nn.Module, rule: str = "variance", **options) -> None:
        self.model = trained
        self.selector = FastSelector(trained, rule, mode="freeze", **options)
        self.optimizer = torch.optim.AdamW(self.selector.trainable_parameters(), lr=1e-2)
        self.selector.attach(self.optimizer)

    def step(self, batch: Batch) -> float:
        loss = self.model(**batch).loss
        loss.backward()
        self.selector.step()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    def layer_weights(self, layer: int) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for _, p in self.selector._found.layers[layer]])

    def weights(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])


@pytest.mark.parametrize("rule", ["variance", "topk:k=1", "threshold:gamma=0.5", "cost-aware:budget=0.8"])
def test_as_if_the_model_had_only_the_layers_above(rule: str):
    """The oracle: a selector that never saw the layers below, since nothing in them can train."""
    steps = batches("llama", "right") * 4
    ours = Run(model(), rule, state_cache="cached", cut=2, probe_every=3)
    frozen = model()
    for name, parameter in frozen.named_parameters():
        if ".layers.0." in name or ".layers.1." in name:
            parameter.requires_grad_(False)
    if rule.startswith("cost-aware"):  # which reckons with the layers below
        costs = ours.selector.rule.layer_costs
        above = {
            "forward": costs.forward[2:],
            "input_gradient": costs.input_gradient[2:],
            "weight_gradient": costs.weight_gradient[2:],
            "rest": costs.rest,
        }
        budget = 0.8 * costs.whole
        above["rest"] += sum(costs.forward[:2])
        whole = sum(map(sum, (above["forward"], above["input_gradient"], above["weight_gradient"]))) + above["rest"]
        rule = CostAware(budget=min(1.0, budget / whole), costs=LayerCosts(**above))
    theirs = Run(frozen, rule, probe_every=3)
    assert theirs.selector.num_layers == 2
    for batch in steps:
        assert ours.step(batch) == theirs.step(batch)
        assert ours.selector.mask.tolist() == [False, False, *theirs.selector.mask.tolist()]
        assert ours.selector.trained() == [layer + 2 for layer in theirs.selector.trained()]
    assert torch.equal(ours.weights(), theirs.weights())
    assert ours.selector.frequency.tolist() == [0, 0, *theirs.selector.frequency.tolist()]
    assert ours.selector.state_cache is not None and ours.selector.state_cache.read == 27


@pytest.mark.parametrize(
    "rule", ["all", "random:k=2", "block-cyclic:interval=1", "lisa:n=1;interval=1", "fixed:layers=[0,3]"]
)
def test_nothing_below_the_cut_ever_trains(rule: str):
    run = Run(model(), rule, state_cache="cached", cut=3)
    before = [run.layer_weights(layer) for layer in range(LAYERS)]
    for batch in batches("llama", "right") * 4:
        run.step(batch)
        assert set(run.selector.selected()) <= {3} and set(run.selector.trained()) <= {3}
    assert all(torch.equal(run.layer_weights(layer), before[layer]) for layer in range(3))
    assert not torch.equal(run.layer_weights(3), before[3])


@pytest.mark.parametrize("rule", ["random:k=1", "lisa:n=1;interval=1", "block-cyclic:interval=1"])
def test_rules_that_draw_draw_among_the_layers_above(rule: str):
    run = Run(model(), rule, state_cache="cached", cut=2)
    seen = []
    for batch in batches("llama", "right") * 4:
        run.step(batch)
        seen.append(run.selector.selected())
    assert {tuple(layers) for layers in seen} == {(2,), (3,)}
    if rule.startswith("block-cyclic"):
        assert seen == [[3], [2]] * 6


def test_a_rule_that_selects_below_the_cut_leaves_something_to_train():
    """Without parameters outside the layers, a step needs a layer."""
    run = Run(with_lora(hugging_face("llama")).eval(), "fixed:layers=[0]", state_cache="cached", cut=2)
    for batch in batches("llama", "right"):
        run.step(batch)
    assert run.selector.trained() == [2, 3] and run.selector.selected() == []


def test_the_cut_is_chosen_from_the_first_steps_in_which_no_layer_moves():
    cut = 'cost-aware:budget=0.6;base="topk:k=3"'
    run = Run(model(), "variance", state_cache="cached", cut=cut, warmup=1)
    found = run.selector._found
    view = ModelView(run.model, found.names, found.modules, found.layers, torch.device("cpu"))
    before = [run.layer_weights(layer) for layer in range(LAYERS)]
    head = run.model.get_base_model().get_output_embeddings().weight
    head_before = head.detach().clone()
    sums = torch.zeros(LAYERS, dtype=torch.float64)
    for number, batch in zip(range(5), itertools.cycle(batches("llama", "right")), strict=False):
        assert run.selector.cut is None and run.selector.state_cache is None
        if number == 0:  # while all parameters take gradients
            rule = CostAware(budget=0.6, base="topk:k=3", costs=costs_above(count_costs(view)))
        run.step(batch)
        sums += run.selector.scores.double()
        assert run.selector.steps == number + 1 and run.selector.frequency.sum() == 0
    assert all(torch.equal(run.layer_weights(layer), before[layer]) for layer in range(LAYERS))
    assert not torch.equal(head, head_before)
    rule.bind(run.selector.layer_names)
    rule.prepare(view)
    mask = rule.select((sums / 5).float(), torch.ones(LAYERS, dtype=torch.uint8)).mask
    assert run.selector.cut == mask.nonzero()[0].item() > 0
    run.step(batches("llama", "right")[0])  # the caller's own warm-up step: all layers above the cut
    assert run.selector.frequency.sum() == 0
    assert [not torch.equal(run.layer_weights(layer), before[layer]) for layer in range(LAYERS)] == [
        layer >= run.selector.cut for layer in range(LAYERS)
    ]
    assert run.selector.state_cache is not None and run.selector.state_cache.filled == 3


def test_what_a_step_costs_above_a_cut():
    costs = costs_above(LayerCosts((1.0, 2.0, 3.0), (1.0, 2.0, 3.0), (0.5, 0.5, 0.5), rest=4.0))
    assert [costs.depth_cost(depth) * costs.whole for depth in range(3)] == pytest.approx([17.5, 15.0, 10.5])


@pytest.mark.parametrize("base", ["", ';base="all"', ';base="variance"'])
@pytest.mark.parametrize("budget", [0.3, 0.5, 0.6, 0.7, 0.9])
def test_a_budget_cuts_as_deep_as_it_allows_whatever_the_gradients_are(budget: float, base: str):
    """Against the costs themselves. It is known before there is any gradient."""
    run = Run(model(), "all", state_cache="cached", cut=f"cost-aware:budget={budget}{base}")
    found = run.selector._found
    view = ModelView(run.model, found.names, found.modules, found.layers, torch.device("cpu"))
    costs = costs_above(count_costs(view))
    shares = [costs.depth_cost(d) + sum(costs.train_cost(layer) for layer in range(d, LAYERS)) for d in range(LAYERS)]
    expected = next((depth for depth, share in enumerate(shares) if share <= budget), LAYERS - 1)
    assert run.selector.cut == expected
    run.step(batches("llama", "right")[0])
    assert run.selector.trained() == list(range(expected, LAYERS))


@pytest.mark.parametrize(("cut", "expected"), [("fixed:layers=[2,3]", 2), ("upper:p=0.25", 3), ("1", 1), (3, 3)])
def test_cuts_that_need_no_watching(cut: int | str, expected: int):
    run = Run(model(), state_cache="cached", cut=cut)
    assert run.selector.cut == expected and run.selector.state_cache is not None


def test_probe_once_watches_as_long_as_it_says():
    run = Run(model(), state_cache="cached", cut='probe-once:steps=2;base="topk:k=1"')
    steps = batches("llama", "right")
    run.step(steps[0])
    assert run.selector.cut is None
    scores = run.selector.scores.clone()
    run.step(steps[1])
    assert run.selector.cut == int((scores + run.selector.scores).argmax()) or run.selector.cut == 0


def test_a_rule_that_selects_the_lowest_layer_leaves_nothing_below(caplog):
    run = Run(model(), state_cache="cached", cut="all")
    assert run.selector.cut == 0 and run.selector.state_cache is None
    assert "nothing is below the cut" in caplog.text
    before = run.layer_weights(0)
    run.selector.rule = "all"
    run.step(batches("llama", "right")[0])
    assert not torch.equal(run.layer_weights(0), before)


@pytest.mark.parametrize(
    ("rule", "below"),
    [
        ("fixed:layers=[3,2]", 2),
        ("fixed:layers=[1];probe=true", 1),
        ("upper:p=0.25", 3),
        ("none", 3),
        ("lower:p=0.5", 0),
        ("all", 0),
        ("variance", 0),
        ("random:k=1", 0),
        ("block-cyclic", 0),
        ("cost-aware:budget=0.5", 0),
    ],
)
def test_the_cut_of_the_rule_itself(rule: str, below: int):
    """Nothing trains otherwise than without a cache, since the rule never selects a layer below its own cut."""
    cached, plainly = Run(model(), rule, state_cache="cached", cut="rule"), Run(model(), rule)
    assert cached.selector.cut == below
    for batch in batches("llama", "right") * 2:
        cached.step(batch)
        plainly.step(batch)
    assert torch.allclose(cached.weights(), plainly.weights(), atol=1e-5)
    assert (cached.selector.state_cache is not None) == (below > 0)


def test_a_saved_run_goes_on_bit_for_bit():
    steps = batches("llama", "right") * 6
    whole = Run(model(), state_cache="cached", cut="probe-once:steps=4", probe_every=3)
    for at in (2, 7):  # while the layers are watched, and behind
        resumed_from = Run(model(), state_cache="cached", cut="probe-once:steps=4", probe_every=3)
        for batch in steps[:at]:
            resumed_from.step(batch)
        resumed = Run(model(), state_cache="cached", cut="probe-once:steps=4", probe_every=3)
        resumed.model.load_state_dict(resumed_from.model.state_dict())
        resumed.optimizer.load_state_dict(resumed_from.optimizer.state_dict())
        resumed.selector.load_state_dict(resumed_from.selector.state_dict())
        assert resumed.selector.cut == resumed_from.selector.cut
        losses = [resumed.step(batch) for batch in steps[at:]]
        fresh = Run(model(), state_cache="cached", cut="probe-once:steps=4", probe_every=3)
        assert [fresh.step(batch) for batch in steps][at:] == losses
        assert torch.equal(fresh.weights(), resumed.weights())
    whole.selector.close()


def test_a_state_without_a_cache_is_refused():
    plainly, cached = Run(model()), Run(model(), state_cache="cached", cut=2)
    with pytest.raises(LayerSelectError, match="saved without a state cache, and this selector has one"):
        cached.selector.load_state_dict(plainly.selector.state_dict())
    with pytest.raises(LayerSelectError, match="saved with a state cache, and this selector has none"):
        plainly.selector.load_state_dict(cached.selector.state_dict())


def test_close_gives_the_model_its_layers_back():
    run = Run(model(), state_cache="cached", cut=2)
    batch = batches("llama", "right")[0]
    run.step(batch)
    run.selector.close()
    assert not any("forward" in vars(module) for module in run.model.modules())
    assert all(p.requires_grad for name, p in run.model.named_parameters() if "lora" in name)
    run.model(**batch).loss.backward()
    assert all(p.grad is not None for name, p in run.model.named_parameters() if "lora" in name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state_cache": "kept"}, "state_cache='kept' is none of"),
        ({"state_cache": "cached", "cut": 0}, "cut=0 is not between 1 and 3"),
        ({"state_cache": "cached", "cut": 4}, "cut=4 is not between 1 and 3"),
        ({"state_cache": "cached", "cut": "-1"}, "cut=-1 is not between 1 and 3"),
        ({"state_cache": "cached", "cut": 1.5}, "cut=1.5 is neither a number of layers nor a rule"),
        ({"state_cache": "cached", "cut": "none"}, "selects no layer"),
        ({"state_cache": "cached", "cut": "sideways"}, "sideways"),
        ({"state_cache": "cached", "mode": "gate"}, "needs mode='freeze'"),
    ],
)
def test_what_cannot_be_is_refused(options: dict, message: str):
    with pytest.raises(LayerSelectError, match=message):
        FastSelector(model(), **{"mode": "freeze", **options})


def test_auto_keeps_states_on_the_cpu(caplog):
    with caplog.at_level(logging.INFO, "layerselect"):
        run = Run(model(), state_cache="auto", cut=2)
    assert run.selector.state_cache is not None


def test_auto_that_finds_computing_faster_keeps_nothing_and_is_asked_once(monkeypatch):
    asked = []
    monkeypatch.setattr("layerselect.state_cache.selection.worth_caching", lambda blocks: asked.append(len(blocks)))
    run = Run(model(), "all", state_cache="auto", cut=2)
    for batch in batches("llama", "right"):
        run.step(batch)
    assert asked == [2] and run.selector.state_cache is None
    assert run.selector.trained() == [2, 3]


def test_gradient_checkpointing_above_the_cut():
    """The blocks above are recomputed, those below are not there to be, and the gradients are the same bits."""

    def checkpointed(**options) -> Run:
        trained = with_lora(hugging_face("llama"))
        trained.enable_input_require_grads()
        trained.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return Run(trained.train(), "all", **options)

    steps = batches("llama", "right") * 2
    kept = checkpointed(state_cache="cached", cut=2)
    plainly = checkpointed()
    plainly.selector.rule = "fixed:layers=[2,3]"
    assert [kept.step(batch) for batch in steps] == [plainly.step(batch) for batch in steps]
    assert torch.equal(kept.weights(), plainly.weights())


def test_two_selectors_share_a_store():
    store = StateStore()
    one, other = (Run(model(), state_cache="cached", cut=2, state_cache_store=store) for _ in range(2))
    steps = batches("llama", "right")
    for run in (one, other):
        for batch in steps:
            run.step(batch)
    assert (one.selector.state_cache.filled, other.selector.state_cache.filled) == (9, 0)


def test_a_model_that_is_not_handed_on_from_block_to_block_is_refused():
    """What ``PlainStack`` adds to the stream stands outside its blocks."""
    stack = plain()
    run = FastSelector(stack, "all", mode="freeze", state_cache="cached", cut=3)
    run.attach(torch.optim.AdamW(run.trainable_parameters()))
    stack.embed.weight.requires_grad_(False)
    with pytest.raises(LayerSelectError, match="does not hand the hidden states from block to block"):
        stack(torch.randint(0, VOCABULARY, (2, 4)))
