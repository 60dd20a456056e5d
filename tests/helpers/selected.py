"""A selected model: rules by name, the steps of a training with selector and optimizer, and equal states."""

from __future__ import annotations

import torch
from layerselect import Ablation, CostAware, Ist, make_rule
from layerselect.rules import LayerCardRule
from torch import Tensor, nn

from tests.card.made import made
from tests.helpers.models import plain_loss


def a_rule(name: str, model: nn.Module):
    if name == "measured":
        return CostAware(budget=0.9, costs="measured")
    if name == "layer-card":
        return LayerCardRule(made([1.0, 0.0, 3.0, 0.0, 2.0, 0.0], prefix="blocks"), k=2)
    rule = make_rule("cost-aware:budget=0.9" if name == "counted" else name, seed=3)
    if isinstance(rule, Ist):
        rule.ablation = Ablation(model, plain_loss, [100, 101])
    return rule


def train(model, selector, optimizer, steps: range) -> None:
    for step in steps:
        plain_loss(model, step).backward()
        selector.step()
        optimizer.step()
        optimizer.zero_grad()


def same_state(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_state(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same_state, a, b))
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a.nan_to_num(-1.0), b.nan_to_num(-1.0))
    return type(a) is type(b) and a == b
