"""`load_corpus`: where a source is looked for, options, and what stays the same."""

from __future__ import annotations

import pytest
from layerselect.data import COLUMNS, CorpusError, load_corpus
from layerselect.data import hub as hub_module

from tests.data.conftest import sentence, write_lines


def test_the_schema(iterater):
    corpus = load_corpus(iterater)
    for name, split in corpus.splits.items():
        assert tuple(split.column_names) == COLUMNS
        assert set(split["split"]) == {name}
        assert split.features["intentions"].feature.dtype == "string"
    assert corpus.label_ids == {label: number for number, label in enumerate(sorted(corpus.labels))}


def test_the_fingerprint_follows_content_and_splits(iterater):
    first = load_corpus(iterater)
    assert load_corpus(iterater).fingerprint == first.fingerprint
    assert load_corpus(iterater, splits="official").fingerprint != first.fingerprint
    path = iterater / "human_sent_level" / "dev.json"
    path.write_text(path.read_text().replace("However,", "Yet"))
    assert load_corpus(iterater).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": "mine"}, "splits='mine' is unknown: give one of document, official"),
        ({"multi": "first"}, "multi='first' is unknown: give one of keep, drop"),
        ({"labels": "fine"}, "iterater-sent has no label set 'fine': give one of default, all"),
        ({"split_fractions": (1.0, 1.0, 1.0)}, "split fractions"),
    ],
)
def test_bad_options(iterater, options, message):
    with pytest.raises(CorpusError, match=message):
        load_corpus(iterater, **options)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no-such-thing", "no file or folder no-such-thing, and no corpus of that name"),
        ("no/such/deep/path.jsonl", "no file or folder"),
        ("here/data.csv", "no file or folder"),  # a data file, so not taken for a hub id
        ("iterater-sent:nowhere", "no file or folder nowhere"),
        ("generic", "give generic:PATH"),
        ("hub:", "give hub:PATH|give hub:OWNER/NAME"),
    ],
)
def test_sources_that_are_not_there(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusError, match=message):
        load_corpus(source)


def test_a_typo_in_an_existing_folder_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpora").mkdir()
    with pytest.raises(CorpusError, match="no file or folder corpora/iterate"):
        load_corpus("corpora/iterate")


def test_labels_that_a_split_does_not_have_are_noted(tmp_path):
    rows = [sentence(f"d{n}", f"a{n}", f"b{n}", "style" if n == 0 else "clarity") for n in range(4)]
    write_lines(tmp_path / "train.json", rows)
    write_lines(tmp_path / "dev.json", rows[1:])
    corpus = load_corpus(tmp_path, splits="official")
    assert "no row of validation has the label style" in corpus.notes


@pytest.fixture
def fake_hub(monkeypatch):
    """Stands in for the hub: id -> DatasetDict; everything else does not exist."""
    import datasets

    sets = {}

    def load(name):
        if name not in sets:
            raise ConnectionError(f"no route to {name}\nsecond line")
        return sets[name]

    monkeypatch.setattr(datasets, "load_dataset", load)
    return sets


def test_sentences_from_the_hub_are_looked_up_in_the_documents_of_the_hub(fake_hub, caplog):
    import datasets

    from tests.data.conftest import document

    rows = [sentence(f"d{n}", "One.", "Two.", "style") for n in range(4)]
    sentences = datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)})
    fake_hub["wanyu/IteraTeR_human_sent"] = sentences
    assert {row["after_context"] for row in load_corpus("iterater-sent", splits="official").splits["train"]} == {""}
    assert "the sentences around the revisions stay empty" in caplog.text
    papers = [document(f"d{n}", f"One. Next {n}.", f"Two. Next {n}.", [], sents_char_pos=[0, 4]) for n in range(3)]
    papers = [row | {"edit_actions": [{"major_intent": "style"}]} for row in papers]
    fake_hub["wanyu/IteraTeR_human_doc"] = datasets.DatasetDict({"train": datasets.Dataset.from_list(papers)})
    train = load_corpus("iterater-sent", splits="official").splits["train"]
    assert [row["after_context"] for row in train] == [" Next 0.", " Next 1.", " Next 2.", ""]


def test_a_hub_set_with_iteraters_columns_is_iterater(fake_hub):
    import datasets

    rows = [sentence(f"d{n}", f"Old {n}.", f"New {n}.", "others" if n == 3 else "style") for n in range(4)]
    found = {"train": datasets.Dataset.from_list(rows), "test": datasets.Dataset.from_list(rows[:2])}
    fake_hub["wanyu/IteraTeR_human_sent"] = datasets.DatasetDict(found)
    corpus = load_corpus("iterater-sent", splits="official")
    assert corpus.name == "wanyu/IteraTeR_human_sent"
    assert {name: len(split) for name, split in corpus.splits.items()} == {"train": 3, "test": 2}
    assert load_corpus("wanyu/IteraTeR_human_sent", splits="official").fingerprint == corpus.fingerprint


def test_class_numbers_of_a_hub_set_become_names(fake_hub):
    import datasets

    features = datasets.Features(
        {
            "src": datasets.Value("string"),
            "tgt": datasets.Value("string"),
            "y": datasets.ClassLabel(names=["no", "yes"]),
        }
    )
    data = {"src": ["a", "b", "c"], "tgt": ["d", "e", "f"], "y": [0, 1, 1]}
    fake_hub["me/set"] = datasets.DatasetDict({"train": datasets.Dataset.from_dict(data, features=features)})
    corpus = load_corpus("hub:me/set", before="src", after="tgt", label="y", splits="official")
    assert corpus.splits["train"]["intentions"] == [["no"], ["yes"], ["yes"]]


def test_a_hub_that_cannot_be_reached_is_one_sentence(fake_hub):
    with pytest.raises(CorpusError, match=r"no local file or folder me/none, .*ConnectionError: no route") as caught:
        load_corpus("me/none")
    assert "\n" not in str(caught.value)


def test_a_missing_package_says_how_to_get_it(iterater, monkeypatch):
    import importlib

    from layerselect.data import _extras
    from layerselect.errors import LayerSelectError

    def missing(name):
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(_extras, "importlib", type("Stub", (), {"import_module": staticmethod(missing)}))
    assert importlib.import_module  # the real one is untouched
    with pytest.raises(LayerSelectError, match=r"pip install 'layerselect\[data\]'"):
        load_corpus(iterater)
    with pytest.raises(LayerSelectError, match="'datasets'"):
        hub_module.read_hub("me/set")
