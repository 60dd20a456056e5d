"""What ``warmup``, ``interval``, ``probe_every`` and ``lag`` do to gradients, scores, selections and optimizer memory.

``test_selector.py`` compares whole runs with a simulation; here each meaning is stated by itself, step by step.
"""

from __future__ import annotations

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.core.schedule import Schedule
from torch import nn

from tests.helpers.models import plain, plain_loss
from tests.helpers.norms import gradient_norms
from tests.helpers.simulation import variance_split

LAYERS = 6
EVERYTHING = set(range(LAYERS))


class Run:
    """Rows of a training run: what took gradients, what was measured then, what is known, what is selected."""

    def __init__(self, steps: int, rule: str = "variance", **settings) -> None:
        model = plain()
        self.rows: list[dict] = []
        with FastSelector(model, rule, mode="freeze", **settings) as selector:
            optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.3, momentum=0.9)
            selector.attach(optimizer)
            for step in range(steps):
                announced = set(selector.trained())
                plain_loss(model, step).backward()
                computed = {i for i, b in enumerate(model.blocks) if all(p.grad is not None for p in b.parameters())}
                norms = gradient_norms(selector, model)
                selector.step()
                before = [block[1].weight.detach().clone() for block in model.blocks]
                optimizer.step()
                moved = {i for i, b in enumerate(model.blocks) if not torch.equal(b[1].weight, before[i])}
                optimizer.zero_grad()
                assert announced == computed
                self.rows.append(
                    {
                        "computed": computed,
                        "norms": norms,
                        "scores": selector.scores.tolist(),
                        "selected": set(selector.selected()),
                        "frequency": selector.frequency.tolist(),
                        "moved": moved,
                        "memory": {i for i, b in enumerate(model.blocks) if optimizer.state.get(b[1].weight)},
                    }
                )


@pytest.mark.parametrize(("probe_every", "warmup"), [(4, 0), (5, 3), (1, 0), (0, 2)])
def test_scores_go_stale_between_probes_and_are_refreshed_by_them(probe_every, warmup):
    rows = Run(16, probe_every=probe_every, warmup=warmup).rows
    held = [float("nan")] * LAYERS
    stale = 0
    for step, row in enumerate(rows):
        probe = step <= warmup or (probe_every and (step - warmup) % probe_every == 0)
        # Without lag the layers of the last selection take gradients, and at a probe all of them.
        assert row["computed"] == (EVERYTHING if probe else rows[step - 1]["selected"]), step
        held = [row["norms"][i] if i in row["computed"] else held[i] for i in range(LAYERS)]
        assert row["scores"] == pytest.approx(held, rel=1e-6), step
        if step >= warmup:
            assert row["selected"] == variance_split(held), step
        stale += len(EVERYTHING - row["computed"])
        # A probe moves what is selected, like any other step.
        assert row["moved"] == row["selected"] & row["computed"]
    assert (stale > 0) == (probe_every != 1)


def test_without_probes_a_layer_that_falls_behind_is_locked_out():
    """The reason why there are probes: a stale score is beaten for good by scores that grow, and never looked at
    again.
    """

    def run(probe_every: int) -> list[set[int]]:
        model = plain()
        selected = []
        # The gradients of the lower half are small at first, and double with every step.
        growth = 0.01
        for block in model.blocks[:3]:
            for p in block.parameters():
                p.register_hook(lambda g: g * growth)
        with FastSelector(model, "topk:k=2", mode="freeze", probe_every=probe_every) as selector:
            for _ in range(12):
                plain_loss(model).backward()
                growth *= 2
                selector.step()
                selected.append(set(selector.selected()))
                model.zero_grad()
        return selected

    first = run(0)[0]
    assert run(0) == [first] * 12 and first <= {3, 4, 5}
    with_probes = run(5)
    assert with_probes[:10] == [first] * 10
    assert with_probes[10] <= {0, 1, 2}


@pytest.mark.parametrize(("warmup", "interval"), [(0, 3), (4, 1), (3, 5)])
def test_selections_are_made_when_they_are_due_and_counted_once(warmup, interval):
    rows = Run(17, probe_every=1, warmup=warmup, interval=interval).rows
    counted = [0] * LAYERS
    changes = 0
    for step, row in enumerate(rows):
        if step < warmup:
            assert row["selected"] == row["moved"] == EVERYTHING
        elif (step - warmup) % interval == 0:
            assert row["selected"] == variance_split(row["norms"])
            counted = [n + (i in row["selected"]) for i, n in enumerate(counted)]
            changes += step > 0 and row["selected"] != rows[step - 1]["selected"]
        else:
            assert row["selected"] == rows[step - 1]["selected"]
        assert row["frequency"] == counted
    assert changes > 1


@pytest.mark.parametrize("rule", ["variance", "topk:k=2"])
@pytest.mark.parametrize("lag", [0, 1, 2, 3])
def test_what_is_computed_is_as_old_as_lag_says(rule, lag):
    rows = Run(18, rule, probe_every=6, warmup=1, lag=lag).rows
    apart = 0
    for step, row in enumerate(rows):
        if step <= 1 or (step - 1) % 6 == 0 or step <= lag:
            assert row["computed"] == EVERYTHING, step
        else:
            assert row["computed"] == rows[step - 1 - lag]["selected"], step
        # Only what is selected now and has a gradient moves.
        assert row["moved"] == row["selected"] & row["computed"], step
        apart += row["selected"] != row["computed"]
    assert apart > 3


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("interval", [1, 3])
def test_rules_that_read_no_scores_are_never_probed_and_never_late(interval, lag):
    rows = Run(14, "random:k=2", probe_every=4, warmup=2, interval=interval, lag=lag).rows
    for step, row in enumerate(rows):
        assert row["computed"] == row["moved"] == row["selected"] == (EVERYTHING if step < 2 else row["selected"])
        assert step < 2 or len(row["selected"]) == 2
        if step > 2 and (step - 2) % interval:
            assert row["selected"] == rows[step - 1]["selected"]
    assert len({frozenset(row["selected"]) for row in rows}) > 3


@pytest.mark.parametrize("on_freeze", ["keep", "reset"])
def test_optimizer_memory(on_freeze):
    """CachedStates, it grows with every layer that ever trained; reset, it is that of the layers that train on."""
    rows = Run(14, "topk:k=2", probe_every=4, lag=1, on_freeze=on_freeze).rows
    ever: set[int] = set()
    for step, row in enumerate(rows[:-1]):
        ever |= row["moved"]
        if on_freeze == "keep":
            assert row["memory"] == ever, step
        else:
            assert row["memory"] == row["moved"] & rows[step + 1]["computed"], step
    assert len(ever) > 3


def test_a_probe_needs_no_memory_of_the_optimizer():
    """Layers that are only measured are not stepped, so nothing is kept for them."""
    rows = Run(9, "fixed:layers=[5]", probe_every=2).rows
    assert all(row["memory"] == {5} for row in rows)
    rows = Run(9, "topk:k=1", probe_every=2, on_freeze="reset").rows
    assert all(len(row["memory"]) <= 1 for row in rows)
    assert any(row["computed"] == EVERYTHING for row in rows[1:])


def test_the_parts_of_a_schedule():
    schedule = Schedule(warmup=3, interval=2, probe_every=5)
    steps = range(14)
    assert [s for s in steps if schedule.warms_up_in(s)] == [0, 1, 2]
    assert [s for s in steps if schedule.selects_in(s)] == [3, 5, 7, 9, 11, 13]
    assert [s for s in steps if schedule.measures_all_in(s)] == [0, 1, 2, 3, 8, 13]
    with pytest.raises(LayerSelectError, match="interval=0"):
        Schedule(interval=0)


def test_a_model_with_nothing_outside_its_layers_can_always_be_passed_back_through():
    """A selection of nothing would leave no gradient to compute at all."""
    model = plain()
    for p in (*model.embed.parameters(), *model.head.parameters()):
        p.requires_grad_(False)
    with FastSelector(model, "threshold:gamma=1e9", mode="freeze", probe_every=0) as selector:
        optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
        selector.attach(optimizer)
        before = nn.utils.parameters_to_vector(model.parameters()).clone()
        for step in range(3):
            plain_loss(model, step).backward()
            selector.step()
            assert selector.selected() == []
            assert selector.trained() == list(range(LAYERS))
            optimizer.step()
            optimizer.zero_grad()
        assert torch.equal(nn.utils.parameters_to_vector(model.parameters()), before)
