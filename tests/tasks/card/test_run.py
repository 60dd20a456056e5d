"""Which examples a card is measured on, and which its fresh head is trained on."""

from __future__ import annotations

import logging

import pytest
import torch
from layerselect.models.holding import is_installed
from layerselect.tasks.card.run import CardJob, run_card
from layerselect.tasks.card.sample import cut_batches
from layerselect.tasks.intent.config import IntentConfig

from tests.helpers import tiny_intent


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
        chosen, others = cut_batches(range(count), list, job(tmp_path, examples, steps), fresh=True)
    one, other = [x for batch in chosen for x in batch], [x for batch in others for x in batch]
    assert (len(one), len(other)) == (measured, trained_on)
    assert len({*one, *other}) == measured + trained_on
    assert all(len(batch) == 4 for batch in chosen[:-1])
    assert (f"is lowered to {measured}" in caplog.text) == (measured < examples)


def test_without_a_fresh_head_every_example_may_be_measured(tmp_path):
    chosen, others = cut_batches(range(20), list, job(tmp_path, 20, 5), fresh=False)
    assert sorted(x for batch in chosen for x in batch) == list(range(20)) and others == []


def _padded(items):
    return torch.zeros(len(items), max(items))


def test_batches_of_a_model_that_does_not_pass_over_padding_have_none(tmp_path):
    lengths = [3, 5, 3, 4, 5, 3, 3, 3, 4]
    chosen, _ = cut_batches(lengths, _padded, job(tmp_path, 9, 0), fresh=False, pads=False)
    assert sorted(tuple(batch.shape) for batch in chosen) == [(1, 3), (2, 4), (2, 5), (4, 3)]


@pytest.mark.parametrize(
    "how",
    [
        {"dtype": "bfloat16"},
        pytest.param(
            {"quantize": "4bit"},
            marks=pytest.mark.skipif(not is_installed("bitsandbytes"), reason="bitsandbytes is not installed"),
        ),
    ],
)
def test_a_model_in_few_bits_has_nearly_the_card_that_it_has_in_float32(tmp_path, monkeypatch, how):
    """What layers can correct is that of the numbers that the weights stand for, and so are their sizes."""
    for name in ("write_card_png", "write_card_report"):
        monkeypatch.setattr(f"layerselect.report.card.{name}", lambda path, card: None)
    folder, corpus = tiny_intent.save_llama(tmp_path / "llama"), tiny_intent.corpus_file(tmp_path, documents=6)
    cards = []
    for number, options in enumerate(({}, how)):
        settings = IntentConfig(
            data=str(corpus),
            model=str(folder),
            out=str(tmp_path / f"{number}"),
            device="cpu",
            head="generate",
            **options,
        )
        cards.append(run_card(CardJob(settings, examples=24, head_steps=0, options={"timed": False}))[0])
    plain, held = (torch.tensor([layer.resnorm for layer in card.layers]) for card in cards)
    assert ((held - plain).abs() <= 0.25 * plain.abs()).all()
    assert cards[0].model["parameters"] == cards[1].model["parameters"]
