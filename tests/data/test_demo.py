"""The demo corpus: deterministic, clean, and decided by what stands around an edit."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from layerselect.data import demo, load_corpus
from layerselect.data.demo_edits import FAMILIES, Edit
from layerselect.data.edits import changed_words, split_words
from layerselect.data.schema import fold


@pytest.fixture(scope="module")
def corpus():
    return load_corpus("demo")


def rows_of(corpus):
    return [row for split in corpus.splits.values() for row in split]


def words_changed(row):
    """What a reader of the changed words alone knows: which were removed and which were added."""
    removed, added = changed_words(row["before"], row["after"])
    return tuple(sorted(map(str.lower, removed))), tuple(sorted(map(str.lower, added)))


def macro_f1(truth, predicted):
    return pytest.importorskip("sklearn.metrics").f1_score(truth, predicted, average="macro")


def test_size_labels_and_proportions(corpus):
    rows = rows_of(corpus)
    assert 2000 <= len(rows) <= 3000
    assert corpus.labels == ["clarity", "coherence", "fluency", "meaning-changed", "style"]
    assert not corpus.multi_label
    counts = Counter(row["intentions"][0] for row in rows)
    assert max(counts.values()) / len(rows) < 0.35
    assert min(counts.values()) / len(rows) > 0.08
    assert counts["fluency"] > counts["style"]  # not balanced, as real corpora are not


def test_same_seed_same_corpus_other_seed_other_edits(corpus):
    assert load_corpus("demo").fingerprint == corpus.fingerprint
    other = {(row["before"], row["after"]) for row in rows_of(load_corpus("demo", seed=1))}
    mine = {(row["before"], row["after"]) for row in rows_of(corpus)}
    assert len(mine & other) < 0.6 * len(mine)


def test_no_pair_twice_and_no_document_in_two_splits(corpus):
    rows = rows_of(corpus)
    assert len({(row["before"], row["after"]) for row in rows}) == len(rows)
    assert len({row["id"] for row in rows}) == len(rows)
    splits_of = defaultdict(set)
    for row in rows:
        splits_of[row["doc_id"]].add(row["split"])
    assert all(len(names) == 1 for names in splits_of.values())


def test_the_words_of_a_topic_stand_in_no_other_document(corpus):
    topic_of = {word: topic.place for topic in demo.topics() for word in topic}
    assert len(topic_of) == 3 * len(demo.topics())
    for row in rows_of(corpus):
        found = {topic_of[word] for word in split_words(row["before"]) if word in topic_of}
        assert found <= {row["doc_id"]}


def test_every_row_is_a_real_change_with_its_neighbours_as_context(corpus):
    by_id = {row["id"]: row for row in rows_of(corpus)}
    for row in by_id.values():
        assert fold(row["before"]) != fold(row["after"])
        number = int(row["id"].rpartition("-")[2])
        ahead, behind = (by_id.get(f"{row['doc_id']}-{other}") for other in (number - 1, number + 1))
        assert row["before_context"] == (ahead["after"] if ahead else "")
        assert row["after_context"] == (behind["after"] if behind else "")


def test_the_sentences_are_sound(corpus):
    """Both sides start large and end with a point, with one space between words."""
    for row in rows_of(corpus):
        for text in (row["before"], row["after"]):
            assert re.fullmatch(r"[A-Z][\w',]*( [\w',]+)*(\. [A-Z][\w',]*( [\w',]+)*)?\.", text), text


def test_the_changed_words_alone_do_not_give_the_label_away(corpus):
    """The best possible answer from the set of removed and the set of added words, which knows all rows, is wrong often
    enough; so is any single changed word.
    """
    rows = rows_of(corpus)
    truth = [row["intentions"][0] for row in rows]
    labels_of = defaultdict(Counter)
    for row, label in zip(rows, truth, strict=True):
        labels_of[words_changed(row)][label] += 1
    best = [labels_of[words_changed(row)].most_common(1)[0][0] for row in rows]
    assert macro_f1(truth, best) < 0.85

    by_word = defaultdict(Counter)
    for row, label in zip(rows, truth, strict=True):
        for side, words in zip("-+", words_changed(row), strict=True):
            for word in words:
                by_word[side + word][label] += 1
    for word, counts in by_word.items():
        assert max(counts.values()) / counts.total() < 0.85, (word, counts)


def test_a_vote_over_the_changed_words_scores_low_on_other_documents(corpus):
    train, test = corpus.splits["train"], list(corpus.splits["test"])
    votes = defaultdict(Counter)
    for row in train:
        votes[words_changed(row)][row["intentions"][0]] += 1
    most = Counter(row["intentions"][0] for row in train).most_common(1)[0][0]
    predicted = [votes[words_changed(row)].most_common(1)[0][0] if votes[words_changed(row)] else most for row in test]
    assert macro_f1([row["intentions"][0] for row in test], predicted) < 0.75


def test_the_regression_on_the_changed_words_learns_something_but_little(corpus):
    pytest.importorskip("sklearn")
    from layerselect.tasks.run.baselines import WordBaseline

    train, test = list(corpus.splits["train"]), list(corpus.splits["test"])
    number = {label: i for i, label in enumerate(corpus.labels)}
    targets = np.array([number[row["intentions"][0]] for row in train])
    baseline = WordBaseline(train, targets, len(number), multi_label=False)
    score = macro_f1([number[row["intentions"][0]] for row in test], baseline.predict(test)[1])
    assert 0.4 < score < 0.75  # the majority class reaches 0.09


def test_no_word_around_the_edit_gives_the_label_away(corpus):
    """What decides is how the edit and the words around it go together: words that stand around many edits stand around
    edits of several labels.
    """
    around = defaultdict(Counter)
    for row in rows_of(corpus):
        changed = {word for side in words_changed(row) for word in side}
        for word in {word.lower() for word in split_words(row["before"])} - changed:
            around[word][row["intentions"][0]] += 1
    often = {word: counts for word, counts in around.items() if counts.total() > 100}
    assert len(often) > 20
    for word, counts in often.items():
        assert max(counts.values()) / counts.total() < 0.85, (word, counts)


@pytest.mark.parametrize(("family", "shares"), FAMILIES, ids=lambda value: getattr(value, "__name__", ""))
def test_each_family_makes_the_same_edits_with_each_of_its_intentions(family, shares):
    topic, draw = demo.topics()[0], random.Random(0)
    edits = {
        intention: {(edit.removed, edit.added) for edit in (family(topic, intention, draw) for _ in range(600))}
        for intention in shares
    }
    first, *others = edits.values()
    assert others and all(other == first for other in others)


def test_sides_of_an_edit():
    edit = Edit("the cook left. the ", "old", "new", " cook came.")
    assert edit.sides() == ("The cook left. The old cook came.", "The cook left. The new cook came.")
