import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layerselect import LayerSelectError
from layerselect.data import load_corpus
from layerselect.models.tokenizers import load_tokenizer
from layerselect.tasks.intent.dataset import Collator, Encoder, build_splits, make_targets
from layerselect.tasks.run.training import SimilarLengths
from layerselect.tasks.text.formats import InputFormat

from tests.helpers import tiny_intent
from tests.helpers.tiny_intent import LABELS


@pytest.fixture
def words(bert_folder):
    return load_tokenizer(bert_folder)


def encoder(words, name="edits", max_length=64, separator=None):
    return Encoder(words, InputFormat(name), LABELS, max_length, separator)


def test_held_out_documents_are_in_no_other_split(corpus_path, words):
    corpus = load_corpus(corpus_path)
    splits = build_splits(corpus, encoder(words), holdout=0.25)
    documents = {s.name: {row["doc_id"] for row in s.rows} for s in (splits.train, *splits.report)}
    assert set(documents) == {"train", "holdout", "validation", "test"}
    assert sum(map(len, documents.values())) == len(set().union(*documents.values()))
    assert splits.select.name == "holdout"
    assert len(splits.train) + len(splits.select) == len(corpus.splits["train"])
    assert 0.1 < len(splits.select) / len(corpus.splits["train"]) < 0.4


def test_without_a_holdout_the_validation_split_chooses(corpus_path, words):
    splits = build_splits(load_corpus(corpus_path), encoder(words))
    assert splits.select.name == "validation"
    assert [s.name for s in splits.report] == ["validation", "test"]


def test_targets():
    rows = [{"id": "1", "intentions": ["b"]}, {"id": "2", "intentions": ["a", "c"]}]
    assert make_targets(rows[:1], ["a", "b", "c"], False).tolist() == [1]
    assert make_targets(rows, ["a", "b", "c"], True).tolist() == [[0, 1, 0], [1, 0, 1]]
    with pytest.raises(LayerSelectError, match="row '2' has the unknown label 'c'"):
        make_targets(rows, ["a", "b"], True)


def test_an_empty_training_split_and_a_single_label_are_refused(tmp_path, words):
    rows = tiny_intent.revisions()
    corpus = load_corpus(tiny_intent.write_jsonl(tmp_path / "all.jsonl", rows))
    corpus.splits["train"] = corpus.splits["train"].select([])
    with pytest.raises(LayerSelectError, match="training split of .* is empty"):
        build_splits(corpus, encoder(words))
    tiny_intent.write_jsonl(tmp_path / "one.jsonl", [row for row in rows if row["intentions"] == ["style"]])
    with pytest.raises(LayerSelectError, match="only the label 'style'"):
        build_splits(load_corpus(tmp_path / "one.jsonl"), encoder(words))


@pytest.mark.parametrize("context", ["", "It was late."])
def test_a_corpus_without_contexts_says_so_where_they_are_asked_for(tmp_path, words, caplog, context):
    rows = [{**row, "after_context": context} for row in tiny_intent.revisions()]
    corpus = load_corpus(tiny_intent.write_jsonl(tmp_path / "all.jsonl", rows))
    splits = build_splits(corpus, encoder(words, "contextual", 256))
    assert ("has the text around it" in caplog.text) == (not context)
    assert ("late" in words.decode(splits.train.features[0]["input_ids"])) == bool(context)


def test_what_is_cut_is_counted(words):
    row = tiny_intent.revisions()[0]
    length = len(encoder(words, "pair")([row])[0]["input_ids"])
    exact, short = encoder(words, "pair", length), encoder(words, "pair", length - 1)
    assert len(exact([row])[0]["input_ids"]) == length
    assert exact.truncated == 0
    assert len(short([row])[0]["input_ids"]) == length - 1
    assert short.truncated == 1


def test_a_prompt_is_left_open(words):
    """This tokenizer closes every text with the token that also ends what is written."""
    words.eos_token = words.sep_token
    row = {"before": "The river", "after": "A river"}
    found = Encoder(words, InputFormat("plain"), LABELS, 256, None, writes=True)([row])[0]
    assert found["input_ids"] == words(InputFormat("plain").prompt(row, LABELS))["input_ids"][:-1]
    assert words.decode(found["input_ids"]).endswith("Intention :")
    assert found["attention_mask"] == [1] * len(found["input_ids"])


@pytest.mark.parametrize("length", [11, 12])
def test_a_long_prompt_loses_its_middle(words, length):
    row = {"before": "The river", "after": "A river"}
    whole = Encoder(words, InputFormat("plain"), LABELS, 256, None, writes=True)
    short = Encoder(words, InputFormat("plain"), LABELS, length, None, writes=True)
    ids, cut = whole([row])[0]["input_ids"], short([row])[0]["input_ids"]
    assert len(cut) == length
    assert cut == ids[: length // 2] + ids[-(length - length // 2) :]
    assert (whole.truncated, short.truncated) == (0, 1)


def test_a_separator_joins_the_parts_where_the_tokenizer_separates_nothing(llama_folder):
    words = load_tokenizer(llama_folder)
    joined = encoder(words, "pair", separator="\n=>\n")([{"before": "a", "after": "b"}])[0]["input_ids"]
    assert joined == words("a\n=>\nb")["input_ids"]
    assert len(joined) > 2


def test_a_batch_is_as_wide_as_its_longest_input(words):
    items = [
        {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], "labels": np.int64(2)},
        {"input_ids": [5], "attention_mask": [1], "labels": np.int64(0)},
    ]
    batch = Collator(words)(items)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [5, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].dtype == torch.int64


@given(st.lists(st.integers(1, 50), min_size=1, max_size=120), st.integers(1, 9), st.integers(0, 3))
def test_every_example_comes_once_an_epoch_in_an_order_the_epoch_alone_decides(lengths, batch, epoch):
    sampler = SimilarLengths(lengths, batch, seed=1)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(len(lengths)))
    again = SimilarLengths(lengths, batch, seed=1)
    list(again)  # epoch 0 was drawn, as in an uninterrupted run
    again.set_epoch(epoch)
    assert list(again) == order


def test_batches_hold_similar_lengths_and_epochs_differ():
    lengths = np.random.default_rng(0).integers(1, 100, 400).tolist()
    sampler = SimilarLengths(lengths, 10)
    first = list(sampler)
    spread = np.mean([np.ptp([lengths[i] for i in first[s : s + 10]]) for s in range(0, 400, 10)])
    assert spread < 15  # of random batches: about 80
    sampler.set_epoch(1)
    assert list(sampler) != first
