"""What a rule is shown of the model, and when its hooks must go."""

from __future__ import annotations

import copy

import pytest
import torch
from layerselect import FastSelector, LayerSelectError, Rule, Selection
from layerselect.rules import ModelView

from tests.helpers.models import hugging_face, plain, plain_loss, with_lora


class Watching(Rule):
    """Selects all layers, and counts the forward passes of their blocks."""

    name = "watching"

    def __init__(self, refuse: bool = False) -> None:
        self.refuse, self.passes, self.handles = refuse, 0, []

    def config(self):
        return {}

    def prepare(self, view: ModelView) -> None:
        if self.refuse:
            raise LayerSelectError("not this model")
        self.close()
        self.view = view
        self.handles = [module.register_forward_hook(self._count) for module in view.modules]

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def select(self, scores, status):
        return Selection(status > 0, torch.tensor(0.0))

    def _count(self, *_):
        self.passes += 1


def hooks_of(model) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_the_view_holds_the_blocks_and_their_parameters():
    model = with_lora(hugging_face("llama"), layers_to_transform=[1, 3], target_modules=["q_proj"])
    rule = Watching()
    with FastSelector(model, rule, mode="gate") as selector:
        view = rule.view
        blocks = model.base_model.model.model.layers
        assert view.model is model
        assert view.layer_names == selector.layer_names
        assert [id(m) for m in view.modules] == [id(blocks[1]), id(blocks[3])]
        for block, parameters in zip(view.modules, view.parameters, strict=True):
            assert {id(p) for _, p in parameters} == {id(p) for p in block.parameters() if "lora" in _name(model, p)}
        assert view.device == torch.device("cpu")


def _name(model, parameter) -> str:
    return next(name for name, p in model.named_parameters() if p is parameter)


def test_hooks_live_as_long_as_the_rule_is_in_force():
    model = plain()
    first, second = Watching(), Watching()
    selector = FastSelector(model, first, mode="gate")
    plain_loss(model)
    assert (first.passes, hooks_of(model)) == (6, 6)
    selector.rule = second
    plain_loss(model)
    assert (first.passes, second.passes, hooks_of(model)) == (6, 6, 6)
    selector.rule = second  # again: prepared anew, not closed
    plain_loss(model)
    assert (second.passes, hooks_of(model)) == (12, 6)
    selector.close()
    selector.close()
    assert hooks_of(model) == 0
    with pytest.raises(LayerSelectError, match="was closed"):
        selector.rule = first
    assert hooks_of(model) == 0


def test_a_rule_that_refuses_leaves_the_one_in_force():
    model = plain()
    with FastSelector(model, Watching(), mode="gate") as selector:
        rule = selector.rule
        with pytest.raises(LayerSelectError, match="not this model"):
            selector.rule = Watching(refuse=True)
        assert selector.rule is rule and hooks_of(model) == 6


def test_a_selector_that_cannot_be_built_leaves_no_hook(monkeypatch):
    model, rule = plain(), Watching()
    monkeypatch.setattr(
        "layerselect.selector.assembly.make_core", lambda *_: (_ for _ in ()).throw(LayerSelectError("no"))
    )
    with pytest.raises(LayerSelectError, match="no"):
        FastSelector(model, rule)
    assert hooks_of(model) == 0


def test_replaced_parameters_are_shown_again():
    model, rule = plain(), Watching()
    with FastSelector(model, rule, mode="gate") as selector:
        before = rule.view
        model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
        plain_loss(model).backward()
        selector.step()
        assert rule.view is not before and hooks_of(model) == 6
        assert [p for _, p in rule.view.parameters[2]] == list(model.blocks[2].parameters())
        assert all(p is q for (_, p), q in zip(rule.view.parameters[2], model.blocks[2].parameters(), strict=True))
