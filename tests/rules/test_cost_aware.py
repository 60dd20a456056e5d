"""The rule ``cost-aware``: its options, its base, and the budget in a training."""

from __future__ import annotations

import math

import pytest
import torch
from layerselect import CostAware, FastSelector, Fixed, LayerSelectError, TopK, VarianceSplit, make_rule
from layerselect.costs.counted import LayerCosts
from layerselect.rules import EXCLUDED, MEASURED, NEVER_MEASURED

from tests.costs.test_counted import MINI_LM, view_of
from tests.helpers.models import plain, plain_loss


def bound(rule: CostAware, layers: int = 6) -> CostAware:
    rule.bind([f"layers.{i}" for i in range(layers)])
    rule.prepare(view_of(plain(layers)))
    return rule


def choose(rule: CostAware, scores: list[float], status: list[int] | None = None) -> tuple[set[int], float, float]:
    status = [MEASURED] * len(scores) if status is None else status
    made = rule.select(torch.tensor(scores), torch.tensor(status, dtype=torch.uint8))
    return set(made.mask.nonzero().flatten().tolist()), made.kept_share.item(), made.step_cost.item()


def test_minilm_by_hand():
    """A step costs .39 + .085 x depth + .010 x trained, the whole one .96. At 0.71 it may cost .6816, which is three
    layers deep: .39 + .255 + up to .03.
    """

    def check(base, scores, layers, share, cost, status=None):
        found = choose(bound(CostAware(0.71, base, MINI_LM)), scores, status)
        assert found == (layers, pytest.approx(share, rel=1e-6), pytest.approx(cost / 0.96, rel=1e-6))

    # n / (.39 + .095 n) grows with n: as deep as it goes.
    check("all", [1.0] * 6, {3, 4, 5}, 3 / 6, 0.675)
    # 5 / .485 = 10.3, 10 / .58 = 17.2, 10.1 / .675 = 15.0.
    check("all", [9.0, 0.0, 0.0, 0.1, 5.0, 5.0], {4, 5}, 10 / 19.1, 0.58)
    # {3, 5}: 4 / .665 = 6.02, {5}: 3 / .485 = 6.19.
    check("fixed:layers=[0,3,5]", [1.0, 0.0, 0.0, 1.0, 0.0, 3.0], {5}, 3 / 5, 0.485)
    check("fixed:layers=[0,3,5]", [1.0, 0.0, 0.0, 2.0, 0.0, 3.0], {3, 5}, 5 / 6, 0.665)
    # None of 0 and 1 fits. Alone, 3 to 5 do (.655 and less, layer 2 takes .74): the best of them, of equal ones the
    # higher.
    check("topk:k=2", [9.0, 8.0, 7.0, 1.0, 2.0, 1.0], {4}, 0.0, 0.57)
    check("topk:k=2", [9.0, 8.0, 7.0, 1.0, 2.0, 2.0], {5}, 0.0, 0.485)
    # Not finite: neither chosen nor put in the place of what does not fit.
    check("all", [1.0] * 6, {3, 5}, 2 / 5, 0.665, [MEASURED] * 4 + [EXCLUDED, MEASURED])
    check("topk:k=2", [9.0, 8.0, 7.0, 1.0, 2.0, 2.0], {4}, 0.0, 0.57, [MEASURED] * 5 + [EXCLUDED])
    check("topk:k=2", [9.0, 8.0, 0.0, 0.0, 0.0, 0.0], set(), 0.0, 0.39, [MEASURED] * 3 + [EXCLUDED] * 3)
    # Never measured: worth what the best is, 2. {4, 5}: 2.1 / .58 = 3.6, {3, 4, 5}: 4.1 / .675 = 6.1.
    check(
        "all", [2.0, 1.0, 1.0, math.nan, 0.1, 2.0], {3, 4, 5}, 4.1 / 8.1, 0.675, [MEASURED] * 3 + [2] + [MEASURED] * 2
    )
    check("all", [math.nan] * 6, {3, 4, 5}, 3 / 6, 0.675, [NEVER_MEASURED] * 6)
    # Nothing chosen: nothing to cut, nothing lost.
    check("threshold:gamma=5", [1.0] * 6, set(), 1.0, 0.39)
    check("all", [0.0] * 6, {5}, 1.0, 0.485)


def test_of_equal_values_the_higher_depth():
    """1 / 2 against 2 / 4."""
    costs = LayerCosts((0.0, 0.0), (2.0, 1.0), (0.0, 0.0), rest=1.0)
    assert choose(bound(CostAware(1.0, "all", costs), 2), [1.0, 1.0]) == ({1}, 0.5, 0.5)
    assert choose(bound(CostAware(1.0, "all", costs), 2), [1.001, 1.0])[0] == {0, 1}


def test_text_configuration_and_seed():
    rule = make_rule('cost-aware:budget=0.5;base="topk:k=4";costs="measured"')
    assert (rule.budget, rule.base.k, rule.costs) == (0.5, 4, "measured")
    assert rule.config() == {"budget": 0.5, "base": {"name": "topk", "k": 4}, "costs": "measured"}
    assert make_rule("cost-aware").config()["base"] == {"name": "variance", **VarianceSplit().config()}
    given_costs = make_rule("cost-aware:costs=[4,3,1]").config()["costs"]
    assert LayerCosts.from_dict(given_costs) == LayerCosts.from_steps([4.0, 3.0, 1.0])
    assert CostAware(costs=given_costs).costs == LayerCosts.from_steps([4.0, 3.0, 1.0])
    assert make_rule('cost-aware:base="random:k=2"', seed=7).base.seed == 7
    assert CostAware(base=TopK(2)).base.k == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("budget=0", r"budget=0 is not in \(0, 1\]"),
        ("budget=1.5", "budget=1.5 is not in"),
        ('base="nope"', "no rule 'nope'"),
        ('base="cost-aware"', "one budget is enough"),
        ('costs="guessed"', "neither 'counted' nor 'measured'"),
        ("costs=[1,2]", "never rise"),
        ('costs={"forward":[1]}', "are not those of layers"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(LayerSelectError, match=message):
        make_rule(f"cost-aware:{options}")


@pytest.mark.parametrize("costs", ["counted", [1.0, 0.95, 0.9, 0.75, 0.6, 0.5]])
def test_a_budget_that_fits_no_layer_trains_the_cheapest_one_and_says_so_once(costs, caplog):
    model = plain()
    model.embed.requires_grad_(False)
    with FastSelector(model, CostAware(0.3, "all", costs), mode="freeze", probe_every=0) as selector:
        optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
        selector.attach(optimizer)
        selector.rule.prepare(selector._view())  # as where parameters were replaced
        for step in range(3):
            plain_loss(model, step).backward()
            selector.step()
            assert selector.selected() == [5]
            assert selector.step_cost == pytest.approx(selector.rule.layer_costs.least())
            optimizer.step()
            optimizer.zero_grad()
    assert caplog.text.count("more than budget=0.3: that is the budget now") == 1


def test_costs_are_of_the_model_that_trains():
    model = plain()
    with pytest.raises(LayerSelectError, match="costs are given for 2 layers, the model has 6"):
        FastSelector(model, "cost-aware:costs=[1,0.5]")
    with pytest.raises(LayerSelectError, match="hand it to a FastSelector first"):
        CostAware().layer_costs  # noqa: B018


STEPS = [1.0, 0.95, 0.9, 0.75, 0.6, 0.5]


@pytest.mark.parametrize("lag", [0, 1])
def test_the_budget_holds_in_mode_freeze(lag):
    """In every step but the first and the probes, what takes gradients costs no more than the budget."""
    model = plain()
    rule = CostAware(0.75, "topk:k=4", STEPS)
    with FastSelector(model, rule, mode="freeze", probe_every=6, lag=lag) as selector:
        optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.5)
        selector.attach(optimizer)
        seen, costs = set(), rule.layer_costs
        for step in range(14):
            trained = selector.trained()
            probe = step % 6 == 0 or step < lag + 1
            assert (len(trained) == 6) == probe
            assert probe or costs.step_cost([i in trained for i in range(6)]) <= 0.75
            plain_loss(model, step).backward()
            selector.step()
            assert selector.step_cost.item() == pytest.approx(costs.step_cost(selector.mask))
            assert selector.step_cost.item() <= 0.75 * (1 + 1e-6)
            assert 0 < selector.kept_share <= 1
            seen.add(tuple(selector.selected()))
            optimizer.step()
            optimizer.zero_grad()
    assert len(seen) > 1


def test_between_selections_and_with_other_rules():
    model = plain()
    with FastSelector(model, CostAware(0.8, "all", STEPS), mode="observe", warmup=1, interval=2) as selector:
        said = []
        for step in range(3):
            plain_loss(model, step).backward()
            selector.step()
            said.append((selector.kept_share.item(), selector.step_cost.item(), selector.selected()))
        assert math.isnan(said[0][0]) and math.isnan(said[0][1])
        assert said[1] == said[2]
        selector.rule = "topk:k=3"
        for _ in range(2):
            selector.step()
        assert selector.kept_share.isnan() and selector.step_cost.isnan()


def test_a_base_that_draws_continues_where_it_was():
    def run(selector: FastSelector, model, steps: range) -> list[list[int]]:
        chosen = []
        for step in steps:
            plain_loss(model, step).backward()
            selector.step()
            model.zero_grad()
            chosen.append(selector.selected())
        return chosen

    model = plain()
    options = {"mode": "gate", "seed": 5}
    rule = f'cost-aware:budget=0.8;base="random:k=4";costs={STEPS}'
    with FastSelector(model, rule, **options) as selector:
        run(selector, model, range(4))
        state = selector.state_dict()
        expected = run(selector, model, range(4, 10))
    with FastSelector(model, rule, **options) as selector:
        selector.load_state_dict(state)
        assert torch.equal(selector.kept_share, state["core"]["kept_share"])
        assert run(selector, model, range(4, 10)) == expected
    assert len({tuple(mask) for mask in expected}) > 1
    with pytest.raises(LayerSelectError, match="not one of rule 'cost-aware'"):
        CostAware().load_state_dict({"generator": torch.zeros(1)})


class Watched(Fixed):
    """Counts what it is told."""

    name = "watched"

    def prepare(self, view):
        self.told = [*getattr(self, "told", []), "prepare"]

    def after_step(self, scores, status):
        self.told.append("after_step")

    def close(self):
        self.told.append("close")


def test_the_base_is_told_what_a_rule_is_told():
    model, base = plain(), Watched([5])
    with FastSelector(model, CostAware(0.9, base, STEPS), mode="observe") as selector:
        plain_loss(model).backward()
        selector.step()
        assert base.told == ["prepare", "after_step"]
    assert base.told == ["prepare", "after_step", "close"]
