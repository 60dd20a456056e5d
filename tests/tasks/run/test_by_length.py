"""Evaluations and predictions read examples of similar lengths together, and give what they find in the order of the
examples.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from layerselect.models import traits
from layerselect.tasks.intent import IntentConfig, Predictor, run_intent
from layerselect.tasks.intent.training import ClassificationTrainer
from layerselect.tasks.revise import GenerationConfig, ReviseConfig, Rewriter, run_revise
from layerselect.tasks.revise.training import RevisionTrainer
from layerselect.tasks.run.by_length import longest_first, put_back
from layerselect.tasks.run.training import MeasuredTrainer
from torch.utils.data import SequentialSampler
from transformers import LlamaForCausalLM

from tests.helpers import tiny_intent
from tests.tasks.intent.test_run import lines
from tests.tasks.run.cached import kept


@pytest.fixture(scope="module")
def mixed_corpus(tmp_path_factory):
    """Revisions some of which are several times as long as others, in no order."""
    rows = tiny_intent.revisions(documents=6)
    for number, row in enumerate(rows):
        more = " and the river leaves some letters" * (number * 7 % 5)
        row["before"], row["after"] = (row[side].replace(" .", f"{more} .") for side in ("before", "after"))
    return tiny_intent.write_jsonl(tmp_path_factory.mktemp("mixed") / "revisions.jsonl", rows)


def test_what_was_found_is_put_back():
    lengths = [3, 9, 3, 1, 9, 4]
    order = longest_first(lengths)
    assert order == [1, 4, 5, 0, 2, 3]
    found = (np.array(order), {"rows": np.array(order)[:, None] * 2}, [None])
    back = put_back(found, lengths)
    assert back[0].tolist() == list(range(6)) and back[1]["rows"][:, 0].tolist() == [0, 2, 4, 6, 8, 10]
    assert back[2] == [None]
    assert longest_first([]) == [] and len(put_back(np.zeros((0, 2)), [])) == 0


def counted(monkeypatch, kind):
    """The padded tokens of all evaluated batches."""
    padding, ours = [], kind.prediction_step

    def step(self, model, inputs, *args, **kwargs):
        masks = [mask for name, mask in inputs.items() if name in ("attention_mask", "answer_mask")]
        padding.append(sum(int((mask == 0).sum()) for mask in masks))
        return ours(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(kind, "prediction_step", step)
    return padding


def as_they_come(monkeypatch):
    monkeypatch.setattr(MeasuredTrainer, "_get_eval_sampler", lambda self, data: SequentialSampler(data))
    monkeypatch.setattr("layerselect.tasks.run.training.put_back", lambda found, lengths: found)


KINDS = {
    "an encoder with a head": ("bert", {}),
    "a decoder that writes": ("llama", {"head": "generate"}),
    "with a cache": ("bert", {"state_cache": "cached", "cut": "1"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_pads_less_and_finds_the_same(tmp_path, mixed_corpus, folders, kind):
    model, options = KINDS[kind]
    if "state_cache" in options:
        options = {**kept(tmp_path / "store"), **options}
    found, padding = [], []
    for name in ("sorted", "plain"):
        config = IntentConfig(
            data=str(mixed_corpus),
            model=str(folders[model]),
            out=str(tmp_path / name),
            max_steps=2,
            eval_batch_size=4,
            window=40,
            max_length=128,
            device="cpu",
            lora_dropout=0.0,
            **options,
        )
        with pytest.MonkeyPatch.context() as patch:
            padding.append(counted(patch, ClassificationTrainer))
            if name == "plain":
                as_they_come(patch)
            found.append(run_intent(config).folder)
    assert sum(padding[0]) < sum(padding[1])
    one, other = (lines(folder / "predictions.jsonl") for folder in found)
    assert [line["id"] for line in one] == [line["id"] for line in other]
    for first, second in zip(one, other, strict=True):
        assert first["scores"] == pytest.approx(second["scores"], abs=1e-4)
    one, other = (lines(folder / "metrics.jsonl") for folder in found)
    assert [line["loss"] for line in one] == pytest.approx([line["loss"] for line in other], rel=1e-4)


def test_losses_of_revisions_pad_less_and_are_the_same(tmp_path, mixed_corpus, folders):
    found, padding = [], []
    for name in ("sorted", "plain"):
        config = ReviseConfig(
            data=str(mixed_corpus),
            model=str(folders["llama"]),
            out=str(tmp_path / name),
            transfer="none",
            max_steps=1,
            eval_batch_size=4,
            max_new_tokens=1,
            max_length=128,
            device="cpu",
        )
        with pytest.MonkeyPatch.context() as patch:
            padding.append(counted(patch, RevisionTrainer))
            if name == "plain":
                as_they_come(patch)
            found.append(run_revise(config).folder)
    assert sum(padding[0]) < sum(padding[1])
    one, other = (lines(folder / "metrics.jsonl") for folder in found)
    assert [line["loss"] for line in one] == pytest.approx([line["loss"] for line in other], rel=1e-4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, mixed_corpus, folders):
    out = tmp_path_factory.mktemp("trained") / "run"
    options = {"max_steps": 1, "window": 40, "max_length": 128, "device": "cpu"}
    return run_intent(IntentConfig(data=str(mixed_corpus), model=str(folders["bert"]), out=str(out), **options)).folder


def test_predictions_pad_less_and_come_in_the_order_of_the_rows(trained, mixed_corpus, monkeypatch):
    rows, predictor = lines(mixed_corpus), Predictor.load(trained)
    rows.insert(3, {"id": "bad", "before": None, "after": "x"})
    padding, ours = [], Predictor._scores_of

    def scores(self, items):
        lengths = [len(item["input_ids"]) for item in items]
        padding.append(max(lengths) * len(lengths) - sum(lengths))
        return ours(self, items)

    monkeypatch.setattr(Predictor, "_scores_of", scores)
    found = list(predictor.predict(rows, batch_size=4))
    little = sum(padding)
    monkeypatch.setattr("layerselect.tasks.intent.predict._SORTED", 1)
    monkeypatch.setattr("layerselect.tasks.intent.predict.longest_first", lambda lengths: list(range(len(lengths))))
    padding.clear()
    expected = list(predictor.predict(rows, batch_size=4))
    assert 2 * little < sum(padding)
    assert [each.id for each in found] == [row["id"] for row in rows]
    for one, other in zip(found, expected, strict=True):
        assert (one.labels, one.error) == (other.labels, other.error)
        assert one.scores == pytest.approx(other.scores, abs=1e-5)


def test_predictions_come_before_all_rows_were_read(trained, mixed_corpus, monkeypatch):
    read, ours = [], Predictor._read
    monkeypatch.setattr(Predictor, "_read", lambda self, row: read.append(row) or ours(self, row))
    monkeypatch.setattr("layerselect.tasks.intent.predict._SORTED", 2)
    next(Predictor.load(trained).predict(lines(mixed_corpus), batch_size=4))
    assert len(read) == 8


# ------------------------------------------------------------------ writing, with a cache of keys and values


@pytest.fixture
def fed(monkeypatch):
    """How many positions each pass of the model was given, of those that ``generate`` makes."""
    passes, writing = [], []
    ours, generates = LlamaForCausalLM.forward, LlamaForCausalLM.generate

    def forward(self, input_ids=None, **kwargs):
        if writing:
            passes.append(input_ids.shape[1])
        return ours(self, input_ids=input_ids, **kwargs)

    def generate(self, *args, **kwargs):
        writing.append(True)
        passes.append(None)
        try:
            return generates(self, *args, min_new_tokens=3, **kwargs)
        finally:
            writing.pop()

    monkeypatch.setattr(traits, "_generates", lambda *args: True)  # found out once, and tested elsewhere
    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    monkeypatch.setattr(LlamaForCausalLM, "generate", generate)
    return passes


def check_fed(passes):
    """The first pass of a batch reads the prompts, and each other one a single position."""
    pairs = list(itertools.pairwise(passes))
    first = [size for before, size in pairs if before is None]
    later = [size for before, size in pairs if before is not None and size is not None]
    assert len(first) >= 2 and all(size > 1 for size in first)
    assert later and set(later) == {1}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_checkpointing": "nonreentrant"},
        {"gradient_checkpointing": "reentrant", "adapter": "none"},
        {"state_cache": "cached", "cut": "1", "beams": 2},
        {"dtype": "bfloat16", "gradient_checkpointing": "nonreentrant", "untrained": True},
    ],
    ids=lambda options: " ".join(map(str, options.values())) or "plain",
)
def test_each_new_token_feeds_one_position(tmp_path, mixed_corpus, folders, fed, options):
    if "state_cache" in options:
        options = {**kept(tmp_path / "store"), **options}
    config = ReviseConfig(
        data=str(mixed_corpus),
        model=str(folders["llama"]),
        out=str(tmp_path / "run"),
        transfer="none",
        max_steps=1,
        eval_limit=6,
        eval_batch_size=4,
        max_new_tokens=4,
        device="cpu",
        **options,
    )
    run = run_revise(config)
    check_fed(fed)
    if not options:  # what was trained is used later
        fed.clear()
        texts = ["The baker finds a garden .", "A fox leaves the bridge in the evening !"]
        few = GenerationConfig(max_new_tokens=4)
        assert len(Rewriter.load(run.folder).rewrite(texts, generation=few, batch_size=1)) == 2
        check_fed(fed)
