"""Tables in a terminal that is too narrow for them: nothing is cut off, and no figure is broken."""

from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layerselect.cli.wide_table import Line, WideTable
from rich.console import Console

WORDS = st.text("abcdefg", min_size=1, max_size=12)
HEADINGS = st.lists(st.lists(WORDS, min_size=1, max_size=4).map(" ".join), min_size=1, max_size=9)
BORDERS = {"┏": "┓", "┃": "┃", "┡": "┩", "│": "│", "├": "┤", "└": "┘"}


def shown(headings, lines, width, *, plain=False):
    out = StringIO()
    WideTable("row", headings, lines, plain=plain).show(Console(file=out, width=width, no_color=True), "", lines)
    return out.getvalue().splitlines()


@given(HEADINGS, st.data(), st.integers(40, 140), st.booleans())
def test_every_cell_and_heading_is_whole(headings, data, width, plain):
    cells = st.lists(st.text("0123456789.", min_size=1, max_size=12), min_size=len(headings), max_size=len(headings))
    lines = [Line(f"line{number}", data.draw(cells)) for number in range(3)]
    lines.append(Line("lacking", [""] * len(headings), only="nothing", ends=True))
    text = shown(headings, lines, width, plain=plain)
    assert max(map(len, text)) <= width
    if not plain:
        assert all(line[-1] == BORDERS[line[0]] for line in text if line[:1] in BORDERS)
    words = [line.replace("│", " ").replace("┃", " ").split() for line in text]
    heads = [word for line in words for word in line if word != "row" and word[0] in "abcdefg"]
    assert sorted(heads) == sorted(" ".join(headings).split())
    for line in lines[:3]:
        assert [each for row in words if row[:1] == [line.name] for each in row[1:]] == list(line.cells)
    reasons = [row[1:] for row in words if row[:1] == ["lacking"]]
    assert reasons and all(reason == ["nothing"] for reason in reasons)


def test_headings_stand_on_one_line_where_there_is_room():
    table = WideTable("row", ["two words", "three more words"], [Line("a", ["1", "2"])])
    assert table.parts(80) == [[(0, 9), (1, 16)]]
    assert table.parts(25) == [[(0, 7), (1, 5)]]
    assert table.parts(15) == [[(0, 5)], [(1, 5)]]


def test_why_a_line_has_no_cells_fits_the_first_column():
    """The word for it is longer than a heading."""
    lines = [Line("a", [""], only="failed"), Line("b", [""], only="not finished")]
    assert WideTable("row", ["peak MB"], lines).parts(80) == [[(0, len("not finished"))]]
    assert WideTable("row", ["peak"], lines[:1]).parts(80) == [[(0, len("failed"))]]


@pytest.mark.parametrize("plain", [False, True])
def test_long_names_are_folded(plain):
    name = f"fixed:layers={list(range(30))}/lora"
    text = shown(["macro-F1", "accuracy"], [Line(name, ["0.500", "0.600"])], 70, plain=plain)
    assert max(map(len, text)) <= 70
    assert sum("0.500" in line and "0.600" in line for line in text) == 1
    if not plain:
        folded = [line.split("│")[1].strip() for line in text if line[0] == "│"]
        assert "".join(folded) == name.replace(" ", "") or " ".join(folded) == name
