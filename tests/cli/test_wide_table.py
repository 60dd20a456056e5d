"""Tables in a terminal that is too narrow for them: nothing is cut off, and no word is broken."""

from io import StringIO

from hypothesis import given
from hypothesis import strategies as st
from layerselect.cli.wide_table import Line, WideTable
from rich.console import Console

WORDS = st.text("abcdefg", min_size=1, max_size=12)
HEADINGS = st.lists(st.lists(WORDS, min_size=1, max_size=4).map(" ".join), min_size=1, max_size=9)


@given(HEADINGS, st.data(), st.integers(40, 140))
def test_every_cell_and_heading_is_whole(headings, data, width):
    cells = st.lists(st.text("0123456789.", max_size=12), min_size=len(headings), max_size=len(headings))
    lines = [Line(data.draw(WORDS), data.draw(cells)) for _ in range(3)]
    lines.append(Line("lacking", [""] * len(headings), only="not finished", ends=True))
    out = StringIO()
    WideTable("row", headings, lines).show(Console(file=out, width=width, no_color=True), "A title", lines)
    shown = [line for line in out.getvalue().splitlines() if line[:1] in set("┏┃┡│├└")]
    assert {line[-1] for line in shown} <= set("┓┃┩│┤┘") and max(map(len, shown)) <= width
    tables = out.getvalue().count("┏")
    for line in lines:
        # With their borders and blanks, so that a part of a cell is none.
        rows = [[part.strip() for part in text.split("│")] for text in shown if text[2:].startswith(f"{line.name} ")]
        assert len(rows) >= tables
        found = [part for row in rows for part in row]
        for cell in [line.only] if line.only else line.cells:
            assert cell in found
    heads = [text.split("┃") for text in shown if "┃" in text]
    assert sorted(" ".join(headings).split()) == sorted(
        word for text in heads for part in text[2:] for word in part.split()
    )


def test_headings_stand_on_one_line_where_there_is_room():
    table = WideTable("row", ["two words", "three more words"], [Line("a", ["1", "2"])])
    assert table.parts(80) == [[(0, 9), (1, 16)]]
    assert table.parts(25) == [[(0, 7), (1, 5)]]
    assert table.parts(15) == [[(0, 5)], [(1, 5)]]
