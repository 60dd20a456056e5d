"""One table, saved by pandas and `datasets` in every way they have, is one corpus."""

from __future__ import annotations

import csv
import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from layerselect.data.generic import Columns, read_revision_tables
from layerselect.data.tables import read_tables

pandas = pytest.importorskip("pandas")
datasets = pytest.importorskip("datasets")

COLUMNS = ["doc_id", "before", "after", "label"]


def as_set(frame):
    return datasets.Dataset.from_dict(
        {name: [None if value != value else value for value in frame[name]] for name in frame}
    )


def save_never_quoted(frame, path):
    lines = [
        "\t".join("" if cell is None or cell != cell else str(cell) for cell in row)
        for row in frame.itertuples(index=False)
    ]
    path.write_text("\n".join(["\t".join(frame.columns), *lines]) + "\n", encoding="utf-8", newline="")


def save_saved(frame, path):
    as_set(frame).save_to_disk(path)


def save_dict(frame, path):
    datasets.DatasetDict({"train": as_set(frame)}).save_to_disk(path)


def save_array(frame, path):
    frame.to_json(path, orient="records", force_ascii=False)


def save_sheets(frame, path):
    """Half of the rows on a sheet of their own, after a sheet of notes."""
    half = len(frame) // 2
    with pandas.ExcelWriter(path) as writer:
        pandas.DataFrame({"notes": ["read me", "thank you"]}).to_excel(writer, sheet_name="Read me", index=False)
        frame[:half].to_excel(writer, sheet_name="part one", index=False)
        frame[half:].to_excel(writer, sheet_name="part two", index=False)


WRITERS = {
    "comma.csv": lambda frame, path: frame.to_csv(path, index=False),
    "index.csv": lambda frame, path: frame.to_csv(path),
    "semicolon.csv": lambda frame, path: frame.to_csv(path, index=False, sep=";"),
    "bar.csv": lambda frame, path: frame.to_csv(path, index=False, sep="|"),
    "all_quoted.csv": lambda frame, path: frame.to_csv(path, index=False, quoting=csv.QUOTE_ALL),
    "wide.csv": lambda frame, path: frame.to_csv(path, index=False, encoding="utf-16"),
    "excel.csv": lambda frame, path: frame.to_csv(path, index=False, encoding="utf-8-sig", lineterminator="\r\n"),
    "quoted.tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
    "plain.tsv": save_never_quoted,
    "book.xlsx": lambda frame, path: frame.to_excel(path, index=False),
    "sheets.xlsx": save_sheets,
    "pandas.parquet": lambda frame, path: frame.to_parquet(path),
    "lines.jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    "array.json": save_array,
    "columns.json": lambda frame, path: frame.to_json(path),
    "split.json": lambda frame, path: frame.to_json(path, orient="split"),
    "set.parquet": lambda frame, path: as_set(frame).to_parquet(path),
    "saved": save_saved,
    "dict": save_dict,
}


def corpus_of(path):
    raw = read_revision_tables(read_tables(path), Columns(), path.name)
    rows = [(row.doc_id, row.before, row.after, row.intentions) for row in raw.rows]
    return rows, len(raw.defects)


def check(frame, folder, left_out=()):
    found = {}
    for name, write in WRITERS.items():
        if name not in left_out:
            write(frame, folder / name)
            found[name] = corpus_of(folder / name)
    usual = found["lines.jsonl"]
    assert {name: seen for name, seen in found.items() if seen != usual} == {}, usual
    return usual


words = st.sampled_from(
    [
        "He goes",
        '"',
        "'",
        ",",
        ";",
        "\t",
        "|",
        "\n",
        " ",
        "é",
        "\u2028",
        "\x85",
        "😀",
        "'a'",
        '""',
        "[",
        "]",
        "=",
        "nan",
        "0",
    ]
)
texts = st.none() | st.lists(words, max_size=5).map("".join).filter(lambda text: not text.startswith("="))
labels = st.none() | st.sampled_from(["style", "clarity, more", "['a', 'b']", "none", "nan", "2", 'a "b"'])
rows = st.tuples(st.sampled_from(["d1", "d 2", "3"]), texts, texts, labels)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(rows, min_size=2, max_size=6))
@example([("d1", 'He said "no"', "a\n\nb", "style"), ("d1", '"', '"', None), ("3", ",;|", "\t", "none")])
@example([("d1", "a", None, "style"), ("d1", None, "b", "nan"), ("3", None, None, "style")])
def test_one_table_is_one_corpus(tmp_path_factory, cells):
    frame = pandas.DataFrame(cells, columns=COLUMNS, dtype=object)
    flat = [cell for row in cells for cell in row if cell]
    # Lines that are never quoted cannot hold these at all; whole quoted cells are quoted for all that anybody can tell.
    unwritable = any(char in cell for cell in flat for char in "\t\n\r") or any('"' in cell for cell in flat)
    check(frame, tmp_path_factory.mktemp("formats"), ("plain.tsv",) if unwritable else ())


def test_marks_in_a_file_that_is_never_quoted(tmp_path):
    frame = pandas.DataFrame(
        [
            ("d1", '"Go', "Go now", "style"),
            ("d2", 'x"', 'say "x"', "clarity"),
            ("d3", '"whole"', "'", "style"),
            ("d4", "a", '""b', "style"),
        ],
        columns=COLUMNS,
    )
    rows, defects = check(frame, tmp_path)
    assert [row[1] for row in rows] == ['"Go', 'x"', '"whole"', "a"]
    assert defects == 0


@pytest.mark.parametrize(
    ("cells", "wanted", "defects"),
    [
        ([0.0, 1.0, None, 2.0], [["0"], ["1"], ["2"]], 1),
        ([0, 1, 1, 2], [["0"], ["1"], ["1"], ["2"]], 0),
        ([0.5, 1.0, None, 2.0], [["0.5"], ["1"], ["2"]], 1),
        ([True, False, True, True], [["True"], ["False"], ["True"], ["True"]], 0),
        (["a", None, "b", "a"], [["a"], ["b"], ["a"]], 1),
        (["['a', 'b']", "['a']", "[]", '["b"]'], [["a", "b"], ["a"], ["b"]], 1),
        (["['a' 'b']", "['a']", "a", "('b',)"], [["a", "b"], ["a"], ["a"], ["b"]], 0),
        (["[1, 2]", "[1]", "[2]", "[]"], [["1", "2"], ["1"], ["2"]], 1),
        (["[OTHER]", "[STYLE]", "[OTHER]", "[OTHER]"], [["[OTHER]"], ["[STYLE]"], ["[OTHER]"], ["[OTHER]"]], 0),
        (["nan", "a", "<NA>", "NULL"], [["a"]], 3),
        (["none", "a", "None", "a"], [["none"], ["a"], ["a"]], 1),
        (["None", "Style", "Clarity", "None"], [["None"], ["Style"], ["Clarity"], ["None"]], 0),
        (["None", "None", "a", None], [["a"]], 3),
    ],
)
def test_labels_as_programs_write_them(tmp_path, cells, wanted, defects):
    frame = pandas.DataFrame(
        {"doc_id": ["1", "2", "3", "4"], "before": list("abcd"), "after": list("efgh"), "label": cells}
    )
    left_out = ("plain.tsv",) if any('"' in str(cell) for cell in cells) else ()
    rows, skipped = check(frame, tmp_path, left_out)
    assert [row[3] for row in rows] == wanted
    assert skipped == defects


def test_documents_that_became_numbers_with_a_point(tmp_path):
    frame = pandas.DataFrame(
        {"doc_id": [1, 2, None, 2], "before": list("abcd"), "after": list("efgh"), "label": list("xyxy")}
    )
    rows, _ = check(frame, tmp_path)
    assert [row[0] for row in rows] == ["1", "2", "text:c", "2"]


@pytest.mark.parametrize("several", [False, True])
def test_class_numbers_have_the_names_that_the_set_gives_them(tmp_path, several):
    kind = datasets.ClassLabel(names=["clarity", "fluency"])
    features = datasets.Features(
        {"before": datasets.Value("string"), "after": datasets.Value("string"), "label": [kind] if several else kind}
    )
    cells = [[0], [1, 0], [-1]] if several else [0, 1, -1]
    found = datasets.Dataset.from_dict({"before": list("abc"), "after": list("def"), "label": cells}, features=features)
    found.to_parquet(tmp_path / "set.parquet")
    found.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"dev": found}).save_to_disk(tmp_path / "dict")
    for name in ("set.parquet", "saved", "dict"):
        (table,) = read_tables(tmp_path / name)
        raw = read_revision_tables([table], Columns(), name)
        assert [row.intentions for row in raw.rows] == (
            [["clarity"], ["fluency", "clarity"]] if several else [["clarity"], ["fluency"]]
        )
        assert len(raw.defects) == 1
        assert any("class numbers in 'label'" in guess for guess in raw.guesses)
    assert table.split == "validation"


def test_a_class_number_without_a_name_is_a_defect(tmp_path):
    path = tmp_path / "data-00000-of-00001.arrow"
    features = datasets.Features({"before": datasets.Value("string"), "label": datasets.ClassLabel(names=["a"])})
    datasets.Dataset.from_dict({"before": ["x", "y"], "label": [0, 0]}, features=features).save_to_disk(tmp_path / "s")
    info = tmp_path / "s" / "dataset_info.json"
    found = json.loads(info.read_text())
    found["features"]["label"]["names"] = []
    info.write_text(json.dumps(found))
    (table,) = read_tables(tmp_path / "s")
    assert str(table.records[0][1]) == "the class number 0 in 'label' has no name: there are 0 classes"
    assert not path.exists()
