"""Folds by document and parts of a training split: what they promise, over random corpora and through the loader."""

import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layerselect import LayerSelectError
from layerselect.data import load_corpus
from layerselect.data.sizes import Fold, TrainSize
from layerselect.data.splits import fold_splits, part_of_training
from layerselect.tasks.intent import IntentConfig

corpora = st.lists(st.tuples(st.integers(0, 15), st.sampled_from("abc")), min_size=60, max_size=120).filter(
    lambda rows: len({document for document, _ in rows}) >= 12
)


@settings(max_examples=25, deadline=None)
@given(corpora, st.integers(2, 5), st.integers(0, 3))
def test_every_row_is_tested_once_and_no_document_stands_in_two_splits(rows, folds, seed):
    documents, labels = [str(document) for document, _ in rows], [[label] for _, label in rows]
    tested = [0] * len(rows)
    for number in range(1, folds + 1):
        names = fold_splits(documents, labels, Fold(number, folds), seed=seed)
        splits = {}
        for document, name in zip(documents, names, strict=True):
            splits.setdefault(name, set()).add(document)
        assert set(splits) == {"train", "validation", "test"}
        assert sum(map(len, splits.values())) == len(set(documents))
        tested = [count + (name == "test") for count, name in zip(tested, names, strict=True)]
    assert tested == [1] * len(rows)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=5, max_size=80), st.floats(0.5, 99.5), st.floats(0.5, 99.5), st.integers(0, 3)
)
def test_a_smaller_part_of_the_training_split_is_contained_in_a_larger_one(numbers, first, second, seed):
    documents = [str(number) for number in numbers]
    small, large = (part_of_training(documents, TrainSize(value, True), seed=seed) for value in sorted((first, second)))
    assert any(small) and all(b for a, b in zip(small, large, strict=True) if a)
    for kept in (small, large):  # whole documents
        inside = {d for d, k in zip(documents, kept, strict=True) if k}
        assert not inside & {d for d, k in zip(documents, kept, strict=True) if not k}


@pytest.mark.parametrize("text", ["", "2", "0/5", "6/5", "1/1", "-1/5", "1/5/5", "a/b", "1.0/5", "٢/٥"])
def test_what_is_no_fold_is_refused(text):
    with pytest.raises(LayerSelectError, match="as in 2/5"):
        Fold.parse(text)


@pytest.mark.parametrize("text", ["", "0", "0%", "101%", "-5", "1.5", "ten", "5 %%", "1e3", "nan%"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(LayerSelectError, match="as in 500"):
        TrainSize.parse(text)


def test_sizes_are_written_one_way():
    assert [str(TrainSize.parse(text)) for text in ("500", " 10% ", "10.0%", "12.5 %")] == [
        "500",
        "10%",
        "10%",
        "12.5%",
    ]
    assert str(Fold.parse(" 02/5")) == "2/5"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["before", "after", "label", "doc_id"])
        for number in range(200):
            writer.writerow([f"a {number}", f"b {number}", "xy"[number % 2], f"d{number // 4}"])
    return path


def test_the_loader_cuts_folds_and_parts(table):
    whole = load_corpus(table, fold="2/4")
    assert 45 <= len(whole.splits["test"]) <= 55
    part = load_corpus(table, fold="2/4", train_size="25%")
    assert set(part.splits["train"]["id"]) < set(whole.splits["train"]["id"])
    assert abs(len(part.splits["train"]) - len(whole.splits["train"]) / 4) <= 2
    assert part.splits["test"]["id"] == whole.splits["test"]["id"]
    assert part.labels == whole.labels and part.fingerprint != whole.fingerprint
    assert any("rows of train are used" in note for note in part.notes)
    twenty = load_corpus(table, train_size="20")
    assert len(twenty.splits["train"]) == 20


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fold": "1/5", "splits": "official"}, "forbids"),
        ({"fold": "1/500"}, "cannot fill 500 folds"),
        ({"train_size": "1000"}, "fewer than the 1000"),
        ({"fold": "5"}, "no fold"),
        ({"train_size": "5x"}, "no size"),
    ],
)
def test_what_cannot_be_cut_is_one_sentence(table, options, words):
    with pytest.raises(LayerSelectError, match=words):
        load_corpus(table, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fold": "1/5", "splits": "official"}, "--fold 1/5 is cut by document"),
        ({"fold": "0/5"}, "--fold '0/5' is no fold"),
        ({"train_size": "0%"}, "--train-size '0%' is no size"),
    ],
)
def test_settings_name_the_option(options, words):
    with pytest.raises(LayerSelectError, match=words):
        IntentConfig(data="demo", model="demo", out="x", **options)
