"""Looking into files without reading them, and without complaining."""

import pytest
from layerselect.data import peek

from tests.data.conftest import write_lines


def test_fields_of_tables(tmp_path):
    (tmp_path / "a.csv").write_text('\ufeff"x, y",z\n1,2\n', encoding="utf-8")
    assert peek.fields(tmp_path / "a.csv") == ["x, y", "z"]
    (tmp_path / "b.tsv").write_text("x\ty z\n", encoding="utf-8")
    assert peek.fields(tmp_path / "b.tsv") == ["x", "y z"]
    assert peek.fields(write_lines(tmp_path / "c.jsonl", ["{broken", {"q": 1, "r": 2}])) == ["q", "r"]


def test_the_header_of_a_sheet(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (("old ", None, 3), ("a", "b", "c")):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    assert peek.fields(tmp_path / "a.xlsx") == ["old", "3"]


def test_a_folder_is_its_first_data_file(tmp_path):
    write_lines(tmp_path / "dev.json", [{"q": 1}])
    (tmp_path / "notes.txt").write_text("hello")
    assert peek.fields(tmp_path) == ["q"]


@pytest.mark.parametrize("name", ["x.csv", "x.xlsx", "x.jsonl", "x.parquet", "x.txt", "nowhere.csv", "folder"])
def test_what_cannot_be_looked_into_has_no_fields(tmp_path, name):
    (tmp_path / "folder").mkdir()
    if name.startswith("x"):
        (tmp_path / name).write_bytes(b"" if name == "x.csv" else b"\xff\xfe\x00nonsense")
    assert peek.fields(tmp_path / name) == []


def test_the_head_of_a_file(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("\ufeffé" * peek.HEAD, encoding="utf-8")
    assert peek.head(path).startswith("é")
    assert len(peek.head(path)) < peek.HEAD
    assert peek.head(tmp_path / "nowhere") == peek.head(tmp_path) == ""
