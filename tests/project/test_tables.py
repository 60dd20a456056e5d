"""The tables of the documentation are those of the files that they are made of."""

from __future__ import annotations

import string

import pytest

tables = pytest.importorskip("tools.tables", reason="the tools are not beside the tests")
figures = pytest.importorskip("tools.figures", reason="the tools are not beside the tests")
prose = pytest.importorskip("tools.prose", reason="the tools are not beside the tests")


@pytest.mark.parametrize("page", tables.pages(), ids=lambda page: page.name)
def test_a_page_has_the_tables_and_figures_of_its_files(page):
    text = page.read_text(encoding="utf-8")
    assert tables.as_files_have_it(page, text) == text, "run make tables"


class Others(dict):
    """Every figure is 7 and every verdict another one."""

    def __missing__(self, name):
        class Facts(dict):
            def __getattr__(self, part):
                if part in ("f1", "right"):
                    return "+7.000 (-7.000 to +8.000)"
                return "as good" if part == "verdict" else 7

        return Facts()


def test_figures_in_sentences_are_found_whatever_they_are():
    page = "docs/measurements/index.md"
    for template in figures.SENTENCES[page]:
        right = figures.sentence(template)
        moved = string.Formatter().vformat(template, (), Others())
        assert moved != right
        other = "A page. " + " And. ".join(
            figures.sentence(each) for each in figures.SENTENCES[page] if each != template
        )
        assert figures.written(page, f"{other} {moved}.") == f"{other} {right}."
        with pytest.raises(ValueError, match="has 0 sentences like"):
            figures.written(page, other)


def test_what_is_kept_in_the_repository_holds_no_text():
    folders = [path.parent for path in tables.MEASUREMENTS.glob("*/compare.json")]
    assert folders
    for folder in folders:
        # A clone carries less than half of it, packed.
        assert sum(path.stat().st_size for path in folder.rglob("*")) < 4_000_000
        for path in (folder / "kept").iterdir():
            assert "before" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", tables.pages(), ids=lambda page: page.name)
def test_figures_in_sentences_stand_in_a_table_of_their_page(page):
    assert prose.in_no_table(page.relative_to(tables.ROOT).as_posix(), page.read_text(encoding="utf-8")) == []


def test_a_figure_that_its_table_no_longer_has_is_found():
    page = "docs/measurements/some.md"
    table = "<!-- table: some -->\n| 0.527 ± 0.004 | -0.008 (95% -0.047 to +0.031) |\n<!-- end of table -->\n"

    def found(text):
        return prose.in_no_table(page, f"# A page\n\n{table}\n{text}\n")

    assert found("It reaches .527, so 0.53, -.008 of (-.047 to .031), in 2 of 3 and 95 %.") == []
    assert found("It reaches .528 and 0.031; `--lr 0.5`, [there](a-0.5.md), arXiv 2510.00268, torch 2.13.0.") == [
        ".528"
    ]
    assert found("    command --lr 0.25\n\n<!-- a remark: 0.9 -->") == []
    assert found("    command --lr 0.25\n\nIt reaches .528.\n\n    another\n\nOr .529.") == [".528", ".529"]
    assert found("It reaches .528.\n\n<!-- in no table: .528: a run that was not kept -->") == []
    assert prose.in_no_table(page, "It reaches .528.") == []
