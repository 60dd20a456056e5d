"""Splits by document."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layerselect.data.schema import CorpusError
from layerselect.data.splits import document_splits, shared_documents, split_name

ROWS = st.lists(
    st.tuples(
        st.integers(0, 12).map(lambda n: f"doc{n}"),
        st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=2, unique=True),
    ),
    min_size=3,
    max_size=80,
).filter(lambda rows: len({doc_id for doc_id, _ in rows}) >= 3)


def split(rows, **options):
    return document_splits([doc_id for doc_id, _ in rows], [labels for _, labels in rows], **options)


@given(ROWS, st.integers(0, 5))
def test_no_document_in_two_splits_and_no_split_empty(rows, seed):
    found = split(rows, seed=seed)
    splits_of = defaultdict(set)
    for (doc_id, _), name in zip(rows, found, strict=True):
        splits_of[doc_id].add(name)
    assert all(len(names) == 1 for names in splits_of.values())
    assert set(found) == {"train", "validation", "test"}


@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(rows, draw):
    shuffled = list(rows)
    draw.shuffle(shuffled)
    first = dict(zip((doc_id for doc_id, _ in rows), split(rows), strict=True))
    second = dict(zip((doc_id for doc_id, _ in shuffled), split(shuffled), strict=True))
    assert first == second


def test_same_seed_same_splits_other_seed_other_splits():
    rows = [(f"doc{n % 40}", ["a"]) for n in range(200)]
    assert split(rows, seed=3) == split(rows, seed=3)
    assert split(rows, seed=3) != split(rows, seed=4)


def test_splits_are_near_the_fractions_in_rows_and_in_a_rare_label():
    # 60 documents of 3 to 7 rows; every tenth row has the rare label.
    rows = [(f"doc{n}", ["rare" if (n + i) % 10 == 0 else "common"]) for n in range(60) for i in range(3 + n % 5)]
    found = split(rows)
    sizes = Counter(found)
    assert abs(sizes["train"] / len(rows) - 0.8) < 0.02
    assert abs(sizes["test"] / len(rows) - 0.1) < 0.02
    rare = Counter(name for name, (_, labels) in zip(found, rows, strict=True) if labels == ["rare"])
    assert rare["validation"] >= 2
    assert rare["test"] >= 2


def test_three_documents_give_one_to_each_split():
    rows = [("big", ["a"])] * 10 + [("small", ["a"]), ("tiny", ["a"])]
    found = split(rows)
    assert found[0] == "train"
    assert sorted(found[-2:]) == ["test", "validation"]


def test_too_few_documents_are_refused_with_the_number():
    with pytest.raises(CorpusError, match=r"2 document\(s\) cannot fill the splits train, validation, test"):
        split([("x", ["a"]), ("y", ["a"])])


def test_a_share_of_zero_leaves_its_split_out():
    found = split([("x", ["a"]), ("y", ["a"])], fractions=(0.5, 0.5, 0.0))
    assert set(found) == {"train", "validation"}


@pytest.mark.parametrize("fractions", [(0.8, 0.1), (0.8, 0.3, 0.1), (1.1, -0.1, 0.0), (0.0, 0.5, 0.5)])
def test_bad_fractions_are_refused(fractions):
    with pytest.raises(CorpusError, match="split fractions"):
        split([("x", ["a"])] * 5, fractions=fractions)


def test_shared_documents_counts_documents_not_rows():
    shared = shared_documents({"train": ["a", "a", "b"], "validation": ["a", "a", "c"], "test": ["d"]})
    assert shared == {("train", "validation"): 1}


def test_words_for_splits():
    assert [split_name(word) for word in ("dev", "Valid", " VAL ", "testing", "extra")] == [
        "validation",
        "validation",
        "validation",
        "test",
        None,
    ]
