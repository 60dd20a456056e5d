"""The demo corpus: deterministic, clean, and learnable without being a look-up of one word."""

from __future__ import annotations

import json
from collections import Counter, defaultdict

import pytest
from layerselect.data import demo, load_corpus
from layerselect.data.demo_edits import Edit, apply
from layerselect.data.schema import fold


@pytest.fixture(scope="module")
def corpus():
    return load_corpus("demo")


def rows_of(corpus):
    return [row for split in corpus.splits.values() for row in split]


def test_size_labels_and_proportions(corpus):
    rows = rows_of(corpus)
    assert 1500 <= len(rows) <= 2200
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


def test_no_pair_twice_and_no_document_or_sentence_in_two_splits(corpus):
    rows = rows_of(corpus)
    assert len({(row["before"], row["after"]) for row in rows}) == len(rows)
    assert len({row["id"] for row in rows}) == len(rows)
    splits_of = defaultdict(set)
    for row in rows:
        splits_of[row["doc_id"]].add(row["split"])
    assert all(len(names) == 1 for names in splits_of.values())


def test_every_row_is_a_real_change_with_its_neighbours_as_context(corpus):
    documents = demo.read_documents()
    for row in rows_of(corpus):
        assert fold(row["before"]) != fold(row["after"])
        number = int(row["id"].removeprefix(row["doc_id"] + "-").split("-")[0]) - 1
        sentences = [sentence.text for sentence in documents[row["doc_id"]]]
        assert row["before_context"] == (sentences[number - 1] if number else "")
        assert row["after_context"] == (sentences[number + 1] if number + 1 < len(sentences) else "")


def test_the_operation_does_not_give_the_label_away(corpus):
    """Each intention adds words in some rows and takes words out in others (clarity only takes out)."""
    longer, shorter = Counter(), Counter()
    for row in rows_of(corpus):
        difference = len(row["after"].split()) - len(row["before"].split())
        longer[row["intentions"][0]] += difference > 0
        shorter[row["intentions"][0]] += difference < 0
    for label in ("coherence", "fluency", "meaning-changed"):
        assert longer[label] > 10
        assert shorter[label] > 10


def test_the_words_changed_can_be_learned_but_one_of_them_is_not_enough(corpus):
    """A linear model on removed and added words is far above the majority class; the best single word is not."""
    pytest.importorskip("sklearn")
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score

    def changed(row):
        before, after = Counter(row["before"].split()), Counter(row["after"].split())
        return [f"-{word}" for word in (before - after)] + [f"+{word}" for word in (after - before)]

    train = list(corpus.splits["train"])
    rest = [*corpus.splits["validation"], *corpus.splits["test"]]
    truth = [row["intentions"][0] for row in rest]
    words = CountVectorizer(analyzer=changed)
    model = LogisticRegression(max_iter=1000).fit(words.fit_transform(train), [row["intentions"][0] for row in train])
    learned = f1_score(truth, model.predict(words.transform(rest)), average="macro")

    labels_of = defaultdict(Counter)
    for row in train:
        for word in changed(row):
            labels_of[word][row["intentions"][0]] += 1
    most = Counter(row["intentions"][0] for row in train).most_common(1)[0][0]

    def by_one_word(row):
        known = [labels_of[word] for word in changed(row) if word in labels_of]
        return max(known, key=lambda c: max(c.values()) / (c.total() + 2)).most_common(1)[0][0] if known else most

    single = f1_score(truth, [by_one_word(row) for row in rest], average="macro")
    assert learned > 0.7  # the majority class reaches 0.09
    assert single < learned
    assert single < 0.85


def test_markup_of_the_sentence_file():
    sentence = demo._parse("<cause>The mill [by the river] stood still[, too].")
    assert sentence.text == "The mill by the river stood still, too."
    assert sentence.relation == "cause"
    assert [sentence.text[a:b] for a, b in sentence.details] == [" by the river", ", too"]


def test_edits_apply_to_their_side_only():
    edits = [Edit(0, 3, "A", "before", "word"), Edit(8, 12, "", "after", "word")]
    assert apply("The cat sat.", edits) == ("A cat sat.", "The cat ")


def test_the_sentences_are_sound():
    """Every sentence starts large, ends with a point, and stands once."""
    text = json.dumps([s.text for group in demo.read_documents().values() for s in group])
    sentences = json.loads(text)
    assert len(sentences) >= 150
    assert len(set(sentences)) == len(sentences)
    for sentence in sentences:
        assert sentence[0].isupper()
        assert sentence.endswith(".")
        assert "[" not in sentence and "<" not in sentence and "  " not in sentence
