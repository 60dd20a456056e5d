"""``accelerate``: a step that waits for the last micro-batch, and a selector among what an accelerator saves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from torch import nn
from torch.utils.data import DataLoader

from tests.helpers.models import VOCABULARY, plain, plain_loss

accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")

RULES = ["variance", "random:k=2"]
MODES = ["freeze", "gate"]


def rows(count: int) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (count, 6), generator=torch.Generator().manual_seed(0))


class Run:
    """A model, its optimizer and a selector in the hands of an accelerator, which saves all of them.

    Args:
        seed: of the weights that it begins with.
        guarded: whether the loop has the condition that ``step(accelerator)`` makes unnecessary.
        options: of the selector.
    """

    def __init__(self, *, seed: int = 0, guarded: bool = False, kwargs_handlers: Any = None, **options: Any) -> None:
        self.accelerator = accelerate.Accelerator(
            cpu=True, gradient_accumulation_steps=2, kwargs_handlers=kwargs_handlers
        )
        self.guarded = guarded
        model = plain(seed=seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        loader = DataLoader(rows(4 * 5 * self.accelerator.num_processes), batch_size=4)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(model, optimizer, loader)
        self.selector = FastSelector(self.model, **{"rule": "variance", "probe_every": 3, **options})
        self.selector.attach(self.optimizer)
        self.accelerator.register_for_checkpointing(self.selector)

    def train(self, epochs: int) -> Run:
        """Three steps an epoch, the last of which has one micro-batch."""
        for _ in range(epochs):
            for tokens in self.loader:
                with self.accelerator.accumulate(self.model):
                    logits = self.model(tokens)
                    loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens.roll(-1, 1).flatten())
                    self.accelerator.backward(loss)
                    if not self.guarded:
                        self.selector.step(self.accelerator)
                    elif self.accelerator.sync_gradients:
                        self.selector.step()
                    if self.accelerator.sync_gradients:
                        self.accelerator.clip_grad_norm_(self.model.parameters(), 0.5)
                    self.optimizer.step()
                    self.optimizer.zero_grad()
        return self

    def facts(self) -> dict[str, torch.Tensor]:
        history = self.selector.history.arrays()
        found = {name: torch.from_numpy(history[name]) for name in ("step", "mask", "scores")}
        found["weights"] = torch.cat([p.detach().flatten() for p in self.model.parameters()])
        found["frequency"] = self.selector.frequency.clone()
        return found


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    for name, values in one.items():
        assert values.numpy().tobytes() == other[name].numpy().tobytes(), name


@pytest.mark.parametrize("mode", MODES)
def test_a_step_waits_for_the_last_micro_batch(mode):
    run, guarded = Run(mode=mode).train(2), Run(mode=mode, guarded=True).train(2)
    assert run.selector.steps == 6
    assert_same(run.facts(), guarded.facts())


@dataclass
class Sixteen:
    """What an accelerator of ``mixed_precision="fp16"`` shows, which itself needs a GPU."""

    scaler: torch.amp.GradScaler
    sync_gradients: bool = True


@pytest.mark.parametrize("scale", [2.0**10, 2.0**127])
def test_its_scaler_is_the_steps(scale):
    """The second scale makes every gradient infinite, and the scaler skips that step."""
    found = []
    for wrapped in (True, False):
        model, scaler = plain(), torch.amp.GradScaler("cpu", init_scale=scale)
        selector = FastSelector(model, "topk:k=2", mode="gate")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        selector.attach(optimizer)
        scaler.scale(1000.0 * plain_loss(model)).backward()
        selector.step(Sixteen(scaler) if wrapped else scaler)
        scaler.step(optimizer)
        scaler.update()
        found.append((selector.steps, selector.scores.tolist(), [p.tolist() for p in model.parameters()]))
    assert str(found[0]) == str(found[1])  # NaN included
    assert found[0][0] == (scale < 2.0**100)


def test_before_the_last_micro_batch_nothing_is_asked_for():
    """Not even a gradient."""
    selector = FastSelector(plain(), mode="gate")
    waiting = Sixteen(torch.amp.GradScaler("cpu"), sync_gradients=False)
    selector.step(waiting)
    assert selector.steps == 0
    selector.close()
    with pytest.raises(LayerSelectError, match="closed"):
        selector.step(waiting)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("mode", MODES)
def test_what_an_accelerator_saved_goes_on_bit_for_bit(tmp_path, mode, rule):
    run = Run(mode=mode, rule=rule).train(1)
    run.accelerator.save_state(str(tmp_path))
    end = run.train(2).facts()
    other = Run(mode=mode, rule=rule, seed=1)
    other.accelerator.load_state(str(tmp_path))
    assert other.selector.steps == 3
    assert_same(other.train(2).facts(), end)
    # The run itself goes back to where it was, too.
    run.accelerator.load_state(str(tmp_path))
    assert_same(run.train(2).facts(), end)


def test_what_it_saved_of_another_rule_is_refused(tmp_path: Path):
    Run(rule="topk:k=2").accelerator.save_state(str(tmp_path))
    other = Run(rule="variance")
    with pytest.raises(LayerSelectError, match="saved with rule 'topk'"):
        other.accelerator.load_state(str(tmp_path))
