"""What is kept of predictions gives the qualities that scikit-learn and the whole texts give."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layerselect.metrics import classification_report, revision_scores, sari
from layerselect.tasks.compare.counts import IntentCounts, ReviseCounts, Truth
from layerselect.tasks.intent import IntentConfig
from layerselect.tasks.intent.dataset import make_targets
from layerselect.tasks.run.baselines import MajorityBaseline, TextRegression, WordBaseline
from layerselect.tasks.text.rows import split_rows
from sklearn.metrics import f1_score

from tests.helpers import tiny_intent

NAMES = ["a", "b", "c"]
TEXTS = ["he go home now", "we sees it", "all is well here", "the the cat sat", "it rain", "a fox runs"]


def truth_of(labels, *, multi_label=False):
    return Truth([str(i) for i in range(len(labels))], ["d"] * len(labels), np.array(labels, bool), NAMES, multi_label)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(5, 40))
def test_macro_f1_is_scikit_learns_over_the_labels_that_occur(seed, count):
    random = np.random.default_rng(seed)
    labels = random.integers(3, size=count)
    truth = truth_of(np.eye(3, dtype=bool)[labels])
    scores = random.dirichlet(np.ones(3), size=count)
    records = [{"scores": dict(zip(NAMES, row, strict=True))} for row in scores.tolist()]
    counts = IntentCounts()
    statistics = counts.statistics(records, truth)
    cells = counts.counts(statistics, truth)
    predicted = statistics.argmax(axis=1)
    for draw in random.integers(count, size=(3, count)):
        occurring = np.unique(labels[draw])
        theirs = f1_score(labels[draw], predicted[draw], labels=occurring, average="macro", zero_division=0.0)
        assert counts.quality(cells[draw].sum(axis=0)) == pytest.approx(theirs, abs=1e-12)
    assert counts.pooled(statistics, truth)["macro_f1"] == pytest.approx(float(counts.quality(cells.sum(axis=0))))


def test_several_labels():
    truth = truth_of([[1, 1, 0], [1, 0, 0], [0, 1, 0]], multi_label=True)
    statistics = np.array([[9000, 0, 10], [5000, 5001, 0], [4999, 7000, 0]])
    counts = IntentCounts()
    predicted = statistics >= 5000
    theirs = f1_score(truth.labels[:, :2], predicted[:, :2], average="macro")
    assert counts.quality(counts.counts(statistics, truth).sum(axis=0)) == pytest.approx(theirs)
    assert counts.pooled(statistics, truth)["macro_f1"] == pytest.approx(theirs)


def test_baselines_of_several_labels_are_kept_with_their_scores(tmp_path):
    """What they answer is what scores at least a half, and how they rank is as it was."""
    draw = np.random.default_rng(0)
    labels = ("clarity", "style")
    rows = [
        {**row, "intentions": sorted({row["intentions"][0], labels[draw.integers(2)]})}
        for row in tiny_intent.revisions(documents=20)
    ]
    path = tiny_intent.write_jsonl(tmp_path / "corpus.jsonl", rows)
    config = IntentConfig(data=str(path), model="m", out="o", multi="keep", fold="1/2")
    corpus = config.load_corpus()
    split = split_rows(corpus)
    test = list(split["test"])
    targets = [make_targets(split[name], corpus.labels, True) for name in ("train", "test")]
    truth = Truth([row["id"] for row in test], [row["doc_id"] for row in test], targets[1] > 0, corpus.labels, True)
    counts = IntentCounts()
    found = counts.baselines(config, corpus, {}, {"test": truth})
    for baseline in (
        MajorityBaseline(targets[0], 3, multi_label=True),
        WordBaseline(split["train"], targets[0], 3, multi_label=True),
        TextRegression(split["train"], targets[0], 3, multi_label=True),
    ):
        scores, predicted = baseline.predict(test)
        report = classification_report(targets[1], scores, corpus.labels, multi_label=True, predicted=predicted)
        assert counts.pooled(found[baseline.name]["test"], truth) == pytest.approx(report.summary(), abs=1e-3)


def test_a_revision_run_is_compared_by_its_sari_over_the_drawn_examples():
    random = np.random.default_rng(0)
    rows = [
        {"source": TEXTS[i], "prediction": TEXTS[j], "references": [TEXTS[k], TEXTS[m]]}
        for i, j, k, m in random.integers(len(TEXTS), size=(12, 4))
    ]
    counts, truth = ReviseCounts(), truth_of(np.zeros((12, 3)))
    statistics = counts.statistics(rows, truth)
    assert statistics.dtype == np.int64
    for draw in random.integers(12, size=(5, 12)):
        drawn = [rows[i] for i in draw]
        theirs = sari(*([row[key] for row in drawn] for key in ("source", "prediction", "references")))
        assert counts.quality(counts.counts(statistics, truth)[draw].sum(axis=0)) == pytest.approx(
            theirs.sari, abs=1e-9
        )
    copied = counts.baselines(None, None, {"test": rows}, {"test": truth})["source copied"]["test"]
    theirs = sari([r["source"] for r in rows], [r["source"] for r in rows], [r["references"] for r in rows])
    words = {"sari": theirs.sari, "add": theirs.add, "keep": theirs.keep, "delete": theirs.delete}
    copies = {"edits_made": 0.0, "invented": 0.0, "copy_rate": 1.0}  # nothing was made, so nothing is in no reference
    assert counts.pooled(copied, truth) == pytest.approx({**words, **copies})
    earlier = copied[:, : min(counts.widths(truth))]
    assert counts.pooled(earlier, truth) == pytest.approx(words) and counts.edits(earlier) is None
    assert (counts.counts(earlier, truth) == counts.counts(copied, truth)).all()


def test_a_revision_run_has_its_edits_and_those_of_the_untrained_model():
    random = np.random.default_rng(1)
    rows = [
        {"source": TEXTS[i], "prediction": TEXTS[j], "references": [TEXTS[k]], "others": {"untrained": TEXTS[m]}}
        for i, j, k, m in random.integers(len(TEXTS), size=(9, 4))
    ]
    counts, truth = ReviseCounts(), truth_of(np.zeros((9, 3)))
    sources, references = ([row[key] for row in rows] for key in ("source", "references"))
    baselines = counts.baselines(None, None, {"test": rows}, {"test": truth})
    assert list(baselines) == ["source copied", "untrained"]
    written = {"prediction": counts.statistics(rows, truth), "untrained": baselines["untrained"]["test"]}
    for key, found in written.items():
        texts = [row["prediction"] if key == "prediction" else row["others"][key] for row in rows]
        theirs = revision_scores(sources, texts, references)
        assert counts.edits(found) == theirs.edits
        ours = counts.pooled(found, truth)
        for name in ("sari", "edits_made", "edits_unasked", "invented", "copy_rate"):
            assert ours[name] == pytest.approx(getattr(theirs, name)), name
