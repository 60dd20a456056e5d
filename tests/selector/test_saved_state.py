"""What a selector saves: it continues bit for bit, and what does not fit is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from layerselect import FastSelector, LayerSelectError, VarianceSplit

from tests.helpers.models import plain, plain_loss


@pytest.mark.parametrize("mode", ["gate", "freeze", "observe"])
@pytest.mark.parametrize("rule", ["variance", "random:k=2", "topk:k=2"])
@pytest.mark.parametrize("lag", [0, 2])
def test_state_continues_bit_for_bit(mode, rule, lag):
    def steps(model, selector, optimizer, numbers):
        for number in numbers:
            plain_loss(model, number).backward()
            selector.step()
            optimizer.step()
            optimizer.zero_grad()

    def start(model):
        selector = FastSelector(model, rule, mode=mode, probe_every=4, warmup=1, lag=lag)
        optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
        selector.attach(optimizer)
        return selector, optimizer

    whole = plain()
    selector, optimizer = start(whole)
    steps(whole, selector, optimizer, range(7))
    saved = selector.state_dict(), copy.deepcopy(whole.state_dict()), copy.deepcopy(optimizer.state_dict())
    steps(whole, selector, optimizer, range(7, 15))

    resumed = plain(seed=5)
    other, other_optimizer = start(resumed)
    resumed.load_state_dict(saved[1])
    other.load_state_dict(saved[0])
    other_optimizer.load_state_dict(saved[2])
    steps(resumed, other, other_optimizer, range(7, 15))
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    for name, column in selector.history.arrays().items():
        assert (column == other.history.arrays()[name]).all() or name == "threshold", name
    assert torch.equal(selector.frequency, other.frequency)
    assert torch.equal(selector.scores.nan_to_num(), other.scores.nan_to_num())


def test_state_of_another_model_rule_or_version_is_refused():
    selector = FastSelector(plain(), mode="observe")
    state = selector.state_dict()
    with pytest.raises(LayerSelectError, match="another model: it has 6 layers .* this model has 3"):
        FastSelector(plain(layers=3), mode="observe").load_state_dict(state)
    with pytest.raises(LayerSelectError, match="rule 'variance', this selector has 'topk'"):
        FastSelector(plain(), "topk:k=2", mode="observe").load_state_dict(state)
    with pytest.raises(LayerSelectError, match="version 99"):
        selector.load_state_dict({**state, "version": 99})


def test_history_is_complete_over_many_rings_and_exports():
    model = plain(layers=3)
    with FastSelector(model, VarianceSplit(), mode="observe") as selector:
        expected = []
        for step in range(1100):
            if step % 100 == 0:
                model.zero_grad()
                plain_loss(model, step).backward()
            selector.step()
            expected.append(selector.scores.tolist())
        rows = selector.history.arrays()
        assert rows["step"].tolist() == list(range(1100))
        assert rows["scores"].tolist() == expected
        frame = selector.history.to_pandas()
        assert len(frame) == 3300
        assert frame.groupby("layer")["selected"].sum().tolist() == selector.frequency.tolist()
        assert list(frame["name"].unique()) == selector.layer_names
