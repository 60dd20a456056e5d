"""The real corpora, where a developer has them: known counts, no more (nothing of them is in this repository)."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
from layerselect.data import describe, load_corpus


def labels_of(split):
    return Counter(label for row in split["intentions"] for label in row)


@pytest.fixture(scope="module")
def iterater_human(real_corpora):
    folder = real_corpora / "iterater_human"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


@pytest.fixture(scope="module")
def argrewrite_v2(real_corpora):
    folder = real_corpora / "argrewrite_v2"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


def test_iterater_sentences(iterater_human):
    corpus = load_corpus(iterater_human, splits="official", labels="all")
    assert corpus.defects == []
    assert len(corpus.splits["train"]) == 3254
    assert len(corpus.splits["validation"]) == 400
    names = ("clarity", "fluency", "meaning-changed", "coherence", "style", "others")
    train = dict(zip(names, (1258, 739, 807, 311, 100, 39), strict=True))
    dev = dict(zip(names, (157, 115, 54, 46, 13, 15), strict=True))
    assert labels_of(corpus.splits["train"]) == train
    assert labels_of(corpus.splits["validation"]) == dev
    assert "13 documents stand in train and validation" in corpus.notes
    found = describe(corpus)
    assert found.leaking_documents == {"train + validation": 13}
    assert found.same_after_folding == 1
    assert found.repeated_pairs == 9


def test_iterater_sentences_are_found_in_their_documents(iterater_human):
    corpus = load_corpus(iterater_human, splits="official")
    rows = list(corpus.splits["train"])
    assert sum(bool(row["before_context"] or row["after_context"]) for row in rows) > 0.99 * len(rows)
    assert len(rows) == 3215


def test_iterater_contexts_stand_in_the_document(iterater_human):
    documents = {}
    for name in ("train", "dev"):
        for line in (iterater_human / "human_doc_level" / f"{name}.json").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            documents.setdefault(row["doc_id"], []).append(row["before_revision"])
    rows = [row for split in load_corpus(iterater_human).splits.values() for row in split]
    for row in rows:
        if row["before_context"] or row["after_context"]:
            text = row["before_context"] + row["before"] + row["after_context"]
            assert any(text in document for document in documents[row["doc_id"]])


def test_iterater_document_splits_share_no_document(iterater_human):
    corpus = load_corpus(iterater_human)
    assert describe(corpus).leaking_documents == {}
    shares = {name: len(split) / len(corpus) for name, split in corpus.splits.items()}
    assert shares == pytest.approx({"train": 0.8, "validation": 0.1, "test": 0.1}, abs=0.01)


def test_iterater_documents(iterater_human):
    corpus = load_corpus(f"iterater-doc:{iterater_human}", splits="official", labels="all")
    assert {name: len(split) for name, split in corpus.splits.items()} == {"train": 481, "validation": 27}
    assert corpus.defects == []  # applying the edits gives the second text in every document
    assert corpus.multi_label
    assert "13 documents stand in train and validation" in corpus.notes


def test_argrewrite(argrewrite_v2):
    corpus = load_corpus(argrewrite_v2)
    workbooks = len(list(argrewrite_v2.glob("dataset/annotations/[A-D]/*/*.xlsx")))
    assert any(note.startswith(f"{workbooks} workbooks") for note in corpus.notes)
    assert len(corpus.labels) == 9
    assert describe(corpus).leaking_documents == {}
    assert describe(corpus).same_after_folding == 0
    texts = " ".join(
        text for split in corpus.splits.values() for row in split for text in (row["before"], row["after"])
    )
    assert "â€" not in texts


def test_argrewrite_contexts_stand_in_the_draft(argrewrite_v2):
    """The essays are files of their own, so they can say whether the workbook's neighbours are the draft's."""

    def squeezed(text):
        return re.sub(r"[\W_]+", "", text)

    drafts = {}
    for path in argrewrite_v2.glob("dataset/essays/Draft*/*.txt"):
        found = re.fullmatch(r"(?:draft\d_)?2018argrewrite_(\d+)\.txt", path.name)
        if found:
            text = path.read_bytes().decode("utf-8", errors="replace")
            drafts[path.parent.name[-1], found.group(1)] = squeezed(text)
    rows = [row for split in load_corpus(argrewrite_v2).splits.values() for row in split]
    assert all(row["before_context"] or row["after_context"] for row in rows)
    hits = total = 0
    for row in rows:
        found = re.fullmatch(r"[A-D]-(\d)(\d)-(\d+)-o(\d*)-n(\d*)", row["id"])
        if found is None:
            continue  # a unit of several sentences: other sentences may stand between them
        first, second, writer, old, _ = found.groups()
        text = row["before_context"] + (row["before"] if old else row["after"]) + row["after_context"]
        total += 1
        hits += squeezed(text) in drafts[first if old else second, writer]
    assert hits == total > 1500


def test_argrewrite_conditions_a_to_c(argrewrite_v2):
    if len(list(argrewrite_v2.glob("dataset/annotations/*/*/*.xlsx"))) != 128:
        pytest.skip("the counts below are those of conditions A, B and C")
    corpus = load_corpus(argrewrite_v2)
    # 2,475 labelled units that differ, less four that differ by a wrong code page only.
    assert len(corpus) == 2471
    counts = sum((labels_of(split) for split in corpus.splits.values()), Counter())
    assert counts == {
        "Word-Usage/Clarity": 774,
        "General Content Development": 574,
        "Warrant/Reasoning/Backing": 482,
        "Claims/Ideas": 192,
        "Conventions/Grammar/Spelling": 177,
        "Evidence": 163,
        "Precision": 60,
        "Organization": 55,
        "Rebuttal/Reservation": 35,
    }
    assert [str(defect) for defect in corpus.defects] == [
        "C/23/Annotation_2018argrewrite_58_NEW_NEW.txt.xlsx:4: a changed sentence has no revision purpose"
    ]
    single = load_corpus(argrewrite_v2, labels="surface-content", multi="drop")
    assert len(single) == 2461
