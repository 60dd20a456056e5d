"""How much a file may hold: a small file must not cost minutes or gigabytes, whatever it says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from .schema import CorpusError

FILE = 2 << 30
"""Bytes of one file that are read at all."""

COLUMNS = 16_384
"""Columns of a table: as many as a worksheet has at most."""

SHEET_ROWS = 1_048_576
"""Rows of a worksheet."""

INSTEAD = "split it into several files, or save it as CSV or JSON lines"


@dataclass(frozen=True)
class Limits:
    """The limits of one file, which grow with its size: real text is never packed as densely.

    Attributes:
        name: the file as messages name it.
        size: its bytes.
    """

    name: str
    size: int

    @property
    def rows(self) -> int:
        return max(50_000, self.size // 20)

    @property
    def cells(self) -> int:
        return max(2_000_000, self.size // 2)

    @property
    def unpacked(self) -> int:
        """Bytes of what a packed file (Excel, Parquet) holds."""
        return max(32 << 20, 50 * self.size)

    @property
    def elements(self) -> int:
        """Pieces of XML in a workbook, of which a cell has two or three."""
        return max(500_000, self.size)

    def refuse_elements(self) -> NoReturn:
        raise CorpusError(
            f"{self.name} holds more than {self.elements:,} pieces, empty cells and rows among them, the most that "
            f"are read from a workbook of {self._size()}: delete empty rows and columns, or save it as CSV"
        )

    def check_columns(self, columns: int) -> None:
        if columns > COLUMNS:
            raise CorpusError(f"{self.name} has {columns:,} columns, and at most {COLUMNS:,} are read: {_FEWER}")

    def check_rows(self, rows: int, columns: int = 1) -> None:
        """Raise if so many rows, or so many cells, are more than a file of this size may hold."""
        if rows > self.rows:
            raise CorpusError(
                f"{self.name} holds more than {self.rows:,} rows, the most that are read from a file of "
                f"{self._size()}: {INSTEAD}"
            )
        self.check_cells(rows * columns)

    def check_cells(self, cells: int) -> None:
        """Raise if so many cells are more than a file of this size may hold."""
        if cells > self.cells:
            raise CorpusError(
                f"{self.name} holds more than {self.cells:,} cells, the most that are read from a file of "
                f"{self._size()}: {_FEWER}"
            )

    def check_unpacked(self, size: int) -> None:
        """Raise if so many bytes are more than a file of this size may unpack to."""
        if size > self.unpacked:
            raise CorpusError(
                f"{self.name} unpacks to more than {self.unpacked >> 20:,} MB, the most that is read from a file of "
                f"{self._size()}: {INSTEAD}"
            )

    def _size(self) -> str:
        return f"{self.size:,} bytes" if self.size < 10_000 else f"{self.size / 1e6:,.2f} MB"


_FEWER = "keep the columns with the texts before and after, the label and the document"
