"""The witness of ``make frameworks`` sees what it is there to see, and the page is what its data say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
import torch
from frameworks import table
from frameworks.cases import all_cases
from frameworks.tiny import Plain, loss_of, tokens_of
from frameworks.witness import Witness
from layerselect import FastSelector


@pytest.fixture
def witness() -> Iterator[Witness]:
    witness = Witness()
    witness.install()
    yield witness
    witness.remove()


def train(
    meddle: Callable[[Plain, FastSelector, torch.optim.Optimizer], None] | None = None, mode: str = "gate"
) -> None:
    """The README's loop; ``meddle`` does something wrong after each step."""
    torch.manual_seed(0)
    model = Plain()
    selector = FastSelector(model, "topk:k=2", mode=mode, probe_every=3)
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
    selector.attach(optimizer)
    for step in range(5):
        loss_of(model, tokens_of(step)).backward()
        selector.step()
        optimizer.step()
        if meddle is not None:
            meddle(model, selector, optimizer)
        optimizer.zero_grad()


def unselected(model: Plain, selector: FastSelector) -> torch.nn.Parameter:
    return model.blocks[selector.mask.tolist().index(False)].up.weight


def move_a_weight(model: Plain, selector: FastSelector, optimizer: torch.optim.Optimizer) -> None:
    unselected(model, selector).data.flatten()[0] += 1e-6


def step_twice(model: Plain, selector: FastSelector, optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()


def freeze_for_good(model: Plain, selector: FastSelector, optimizer: torch.optim.Optimizer) -> None:
    model.head.weight.requires_grad_(False)


@pytest.mark.parametrize("mode", ["gate", "freeze"])
def test_the_readmes_loop_has_no_faults(witness: Witness, mode: str) -> None:
    train(mode=mode)
    witness.finish()
    assert not witness.faults
    assert witness.reports[0].compared and witness.reports[0].left_out == 10 and len(witness.reports[0].moved) >= 2


@pytest.mark.parametrize(
    ("meddle", "fault"),
    [
        (move_a_weight, "the weights of an unselected layer changed between two steps"),
        (step_twice, "optimizer steps do not follow the selector's"),
        (freeze_for_good, "after close(), requires_grad is not as found"),
    ],
)
def test_what_goes_wrong_is_seen(witness: Witness, meddle: Callable[..., None], fault: str) -> None:
    train(meddle)
    witness.finish()
    assert any(seen.startswith(fault) for seen in witness.faults)


def test_a_score_of_another_gradient_is_seen(witness: Witness, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = FastSelector.scores
    monkeypatch.setattr(FastSelector, "scores", property(lambda self: scores.fget(self) * 1.001))
    train()
    assert any(seen.startswith("a score is not the norm") for seen in witness.faults)


def test_a_run_that_shows_nothing_does_not_pass(witness: Witness) -> None:
    FastSelector(Plain())
    witness.finish()
    assert any("shows nothing" in seen for seen in witness.faults)


def test_the_page_is_rendered_from_its_data() -> None:
    collected = json.loads(table.DATA.read_text())
    page = table.PAGE.read_text()
    between = page[page.index(table.BEGIN) + len(table.BEGIN) : page.index(table.END)]
    assert between.strip() == table.tables(all_cases(), collected).strip()
