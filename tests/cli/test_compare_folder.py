"""``layerselect compare --show`` and ``--add``: what goes on from a folder, and what is refused in one sentence."""

import json

import pytest
from layerselect.cli import main

from tests.helpers import kept_comparison


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("kept")
    corpus = kept_comparison.corpus_file(place / "c.csv")
    kept_comparison.make(place / "c", corpus, skills={"all": 0.9, "ir": 0.9, "head": 0.2})
    return place / "c"


def test_a_comparison_is_shown_and_nothing_is_written(folder, capsys):
    before = sorted(path.name for path in folder.rglob("*"))
    assert main(["compare", "--show", str(folder), "--bootstrap", "100"]) == 0
    out = capsys.readouterr().out
    assert "head/lora: worse than all/lora (-" in out and "report:" not in out
    assert sorted(path.name for path in folder.rglob("*")) == before


@pytest.fixture(scope="module")
def costly_folder(tmp_path_factory):
    """Of it all costs are known."""
    place = tmp_path_factory.mktemp("costly")
    shares = {"step_share": 0.9, "activation_share": 0.8, "optimizer_share": 0.5}
    more = {"processor_seconds_per_step": 0.048, "seconds": 5.0, "peak_memory_mb": 660.0, "trained_parameters": 473_668}
    corpus = kept_comparison.corpus_file(place / "c.csv")
    kept_comparison.make(place / "c", corpus, skills={"all": 0.9, "ir": 0.5}, costs={**shares, **more})
    return place / "c"


@pytest.mark.parametrize("width", range(50, 131, 8))
def test_no_column_is_cut_off(costly_folder, capsys, monkeypatch, width):
    """A line of a table that is cut off does not end with a border."""
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["compare", "--show", str(costly_folder), "--bootstrap", "10"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line[:1] in set("┏┃┡│├└")]
    assert lines and {line[-1] for line in lines} <= set("┓┃┩│┤┘")
    words = " ".join(word for line in lines if "┃" in line for word in line.split())
    for heading in ("macro-F1", "AUPRC", "accuracy", "whole", "activations", "optimizer", "parameters", "95%"):
        assert heading in words


def test_its_tables_and_page_are_written_where_asked(folder, tmp_path, capsys):
    assert main(["compare", "--show", str(folder), "--bootstrap", "100", "--out", str(tmp_path / "t")]) == 0
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == ["report.html", "table.csv", "table.md"]
    assert f"report: {tmp_path / 't' / 'report.html'}" in capsys.readouterr().out


def test_two_comparisons_in_one_table(folder, tmp_path, capsys):
    options = ["compare", "--show", str(folder), str(folder), "--bootstrap", "100"]
    assert main([*options, "--out", str(tmp_path)]) == 0
    assert "verdict" in (tmp_path / "table.md").read_text()
    capsys.readouterr()
    assert main([*options, "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert len(table["corpora"]) == 2 and len(table["lines"]) == 6


def test_rows_to_add_are_planned_with_the_settings_that_are_there(folder, capsys):
    assert main(["compare", "--out", str(folder), "--add", "lisa,ir@pair", "--seeds", "3", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    waiting = [run["name"] for run in plan["runs"] if not run["finished"]]
    assert len(plan["runs"]) == 5 * 3 * 3
    assert "lisa-lora-seed0-fold1" in waiting and "ir-lora-pair-seed2-fold3" in waiting
    assert "all-lora-seed2-fold1" in waiting and "all-lora-seed0-fold1" not in waiting
    assert plan["prospect"]["power"]["measured"] is True


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--show", "HERE"], "holds no comparison"),
        (["--show", "FOLDER", "--data", "demo"], "--data has no place beside --show"),
        (["--show", "FOLDER", "--seeds", "2"], "--seeds has no place beside --show"),
        (["--show", "FOLDER", "--reference", "lisa"], "--reference lisa is none of the compared methods"),
        (["--add", "lisa"], "--out must be given"),
        (["--add", "lisa", "--out", "HERE"], "holds no comparison"),
        (["--add", "lisa", "--out", "FOLDER", "--lr", "1e-3"], "leave out --lr"),
        (["--add", "lisa", "--out", "FOLDER", "--folds", "4"], "leave out --folds"),
        (["--add", "lisa", "--out", "FOLDER", "--methods", "all"], "leave out --methods"),
        (["--add", "nothing", "--out", "FOLDER"], "neither a method"),
        (["--add", "all@weekly", "--out", "FOLDER"], "neither a format"),
        (["--out", "HERE"], "--data, --model must be given"),
    ],
)
def test_what_cannot_be_shown_or_added_is_one_sentence(folder, tmp_path, capsys, arguments, words):
    places = {"FOLDER": str(folder), "HERE": str(tmp_path)}
    assert main(["compare", *(places.get(each, each) for each in arguments)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
