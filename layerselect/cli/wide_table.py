"""Tables of numbers in a terminal that may be too narrow for them: as many tables as it takes, one below the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True)
class Line:
    """A line of a table.

    Attributes:
        name: what it is of.
        cells: one text for each heading.
        only: instead of all cells: why there are none. It stands first in each table.
        bold: it stands out.
        ends: a rule follows it.
    """

    name: str
    cells: Sequence[str]
    only: str = ""
    bold: bool = False
    ends: bool = False


@dataclass(frozen=True)
class WideTable:
    """Which columns stand in which of the tables, and how wide they are.

    The widths are set here, since a table of ``rich`` that has too little room cuts off figures or whole columns.

    Args:
        first: the heading of the names.
        headings: of the other columns.
        lines: all that will be shown, so that tables of some of them look alike.
        plain: without borders.
    """

    first: str
    headings: Sequence[str]
    lines: Sequence[Line]
    plain: bool = False

    def show(self, console: Console, title: str, lines: Sequence[Line]) -> None:
        """Prints some of the lines."""
        for number, part in enumerate(self.parts(console.width)):
            table = Table(
                title=escape(title) if number == 0 else None,
                title_justify="left",
                box=SIMPLE_HEAD if self.plain else HEAVY_HEAD,
                pad_edge=not self.plain,
                collapse_padding=self.plain,
            )
            table.add_column(escape(self.first), overflow="fold", width=self._names(console.width))
            for place, width in part:
                table.add_column(escape(self.headings[place]), justify="right", width=width)
            for line in lines:
                cells = [line.only, *[""] * (len(part) - 1)] if line.only else [line.cells[place] for place, _ in part]
                style = "bold" if line.bold else None
                table.add_row(escape(line.name), *map(escape, cells), end_section=line.ends, style=style)
            console.print(table)

    def parts(self, room: int) -> list[list[tuple[int, int]]]:
        """For each table the columns behind the names, with their widths. Cells are whole, and headings are broken at
        blanks alone; where there is room for it, they are not.

        Args:
            room: characters of a line.
        """
        room -= self._names(room) + (2 if self.plain else 4)  # with blanks and borders
        parts: list[list[tuple[int, int]]] = []
        left = 0
        for place in range(len(self.headings)):
            width = self._needs(place)
            if not parts or width + self._between > left:
                parts.append([])
                left = room
            parts[-1].append((place, width))
            left -= width + self._between
        return [self._widened(part, room) for part in parts]

    @property
    def _between(self) -> int:
        return 2 if self.plain else 3

    def _names(self, room: int) -> int:
        """The width of the names: those that would take more than three fifths of a line are folded."""
        return min(max(map(len, (self.first, *(line.name for line in self.lines)))), 3 * room // 5)

    def _needs(self, place: int) -> int:
        cells = (line.only or line.cells[place] for line in self.lines)
        return max(map(len, (*self.headings[place].split(), *cells)))

    def _widened(self, part: Sequence[tuple[int, int]], room: int) -> list[tuple[int, int]]:
        left = room - sum(width + self._between for _, width in part)
        found = []
        for place, width in part:
            more = max(0, min(len(self.headings[place]) - width, left))
            found.append((place, width + more))
            left -= more
        return found
