"""Which examples a card is measured on, and which its fresh head is trained on."""

from __future__ import annotations

import logging

import pytest
from layerselect.tasks.card.run import CardJob, _batches
from layerselect.tasks.intent.config import IntentConfig


def job(tmp_path, examples: int, head_steps: int) -> CardJob:
    settings = IntentConfig(data="demo", model="demo", out=str(tmp_path / "card"), batch_size=4, seed=3)
    return CardJob(settings, examples=examples, head_steps=head_steps)


@pytest.mark.parametrize(
    ("count", "examples", "steps", "measured", "trained_on"),
    [
        (100, 32, 5, 32, 20),
        (100, 32, 50, 32, 68),  # what there is is taken again and again
        (100, 90, 5, 67, 20),  # a third is kept
        (100, 90, 0, 90, 0),
        (2, 90, 5, 2, 0),
    ],
)
def test_a_head_is_trained_on_examples_that_are_not_measured(
    tmp_path, caplog, count, examples, steps, measured, trained_on
):
    with caplog.at_level(logging.WARNING):
        chosen, others = _batches(range(count), list, job(tmp_path, examples, steps), fresh=True)
    one, other = [x for batch in chosen for x in batch], [x for batch in others for x in batch]
    assert (len(one), len(other)) == (measured, trained_on)
    assert len({*one, *other}) == measured + trained_on
    assert all(len(batch) == 4 for batch in chosen[:-1])
    assert (f"is lowered to {measured}" in caplog.text) == (measured < examples)


def test_without_a_fresh_head_every_example_may_be_measured(tmp_path):
    chosen, others = _batches(range(20), list, job(tmp_path, 20, 5), fresh=False)
    assert sorted(x for batch in chosen for x in batch) == list(range(20)) and others == []
