"""What the probes of a rule look at: training examples that are not trained on."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from layerselect import Ist, LayerSelectError
from layerselect.data import load_corpus
from layerselect.models.tokenizers import load_tokenizer
from layerselect.tasks.intent import IntentConfig, run_intent
from layerselect.tasks.intent.dataset import Collator, Encoder, build_splits
from layerselect.tasks.run.importance_split import give_ablation, reserve_importance_split
from layerselect.tasks.text.formats import InputFormat

from tests.helpers import tiny_intent
from tests.helpers.models import plain
from tests.tasks.intent.test_run import Interrupted, outcome, settings


@pytest.fixture
def splits(corpus_path, bert_folder):
    encoder = Encoder(load_tokenizer(bert_folder), InputFormat("edits"), tiny_intent.LABELS, 64)
    return build_splits(load_corpus(corpus_path), encoder)


def config(rule: str, **changes) -> IntentConfig:
    return IntentConfig(data="x", model="y", out="z", rule=rule, **changes)


def parted_by(splits, config):
    train, importance = reserve_importance_split(splits.train, config)
    return replace(splits, train=train, importance=importance)


def ids(split) -> list[str]:
    return [row["id"] for row in split.rows]


def test_training_examples_are_parted(splits, caplog):
    with caplog.at_level(logging.INFO, logger="layerselect"):
        parted = parted_by(splits, config("ist:update_every=3", batch_size=2))
    total = len(splits.train)
    assert len(parted.importance) == min(4 * 2, int(0.1 * total))
    assert not set(ids(parted.importance)) & set(ids(parted.train))
    assert sorted(ids(parted.importance) + ids(parted.train)) == sorted(ids(splits.train))
    assert ids(parted.train) == [i for i in ids(splits.train) if i in set(ids(parted.train))]
    assert parted.report is splits.report and parted.select is splits.select
    for row, example in enumerate(parted.importance.rows):
        original = ids(splits.train).index(example["id"])
        assert parted.importance.features[row] == splits.train.features[original]
        assert parted.importance.targets[row] == splits.train.targets[original]
    assert f"{len(parted.importance)} of {total} training examples are held out" in caplog.text


def test_the_same_examples_for_every_seed(splits):
    first = parted_by(splits, config("ist", seed=1))
    assert ids(parted_by(splits, config("ist", seed=2)).importance) == ids(first.importance)
    assert ids(parted_by(splits, config("ist", split_seed=2)).importance) != ids(first.importance)


def test_other_rules_hold_nothing_out(splits):
    for rule in ("variance", "lisa", "cosine", 'probe-once:base="topk:k=2"'):
        assert reserve_importance_split(splits.train, config(rule)) == (splits.train, None)


def test_a_single_example_cannot_be_parted(splits):
    alone = type(splits)(splits.train.subset([0]), None, [])
    with pytest.raises(LayerSelectError, match="--rule ist holds out training examples, and there is only one"):
        reserve_importance_split(alone.train, config("ist"))
    two = parted_by(type(splits)(splits.train.subset([0, 1]), None, []), config("ist"))
    assert len(two.train) == len(two.importance) == 1


def test_the_probe_sees_the_held_out_batches_and_no_others(splits, bert_folder):
    parted = parted_by(splits, config("ist", batch_size=2))
    seen = []

    class FakeTrainer:
        model = plain()

        def loss_on(self, model, batch):
            seen.append(batch)
            return torch.tensor(1.0)

    rule = Ist()
    give_ablation(rule, FakeTrainer(), parted.importance, Collator(load_tokenizer(bert_folder)), batch_size=2)
    for number in range(-(-len(parted.importance) // 2)):
        rule.ablation([0.25] * 6, number)
    assert torch.cat([batch["labels"] for batch in seen]).tolist() == parted.importance.targets.tolist()
    tokens = [row[row != 0].tolist() for batch in seen for row in batch["input_ids"]]
    assert tokens == [[t for t in feature["input_ids"] if t != 0] for feature in parted.importance.features]


def test_a_run_with_ist_resumes_to_the_byte(tmp_path, corpus_path, bert_folder):
    def run_settings(name: str) -> IntentConfig:
        # Without an adapter, so that the probe goes by the initial weights, which the resumed run must find again.
        changes = {"dropout": 0.1, "epochs": 2, "rule": "ist:update_every=2"}
        return settings(corpus_path, bert_folder, tmp_path / name, **changes)

    whole = outcome(run_intent(run_settings("whole")))

    def stop(kind, record):
        if kind == "step" and record["step"] == 11:
            raise Interrupted

    with pytest.raises(Interrupted):
        run_intent(run_settings("broken"), on_event=stop)
    assert outcome(run_intent(run_settings("broken"), resume=True)) == whole


@pytest.mark.parametrize("rule", ["cosine", "ist:update_every=2"])
def test_rules_that_look_at_the_model_run_with_an_adapter(tmp_path, corpus_path, bert_folder, rule):
    result = run_intent(settings(corpus_path, bert_folder, tmp_path / "out", adapter="lora", max_steps=4, rule=rule))
    assert 0 < result.training["layers_selected"] <= 3
