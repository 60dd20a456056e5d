"""Worksheets of an Excel workbook (.xlsx), read from its XML with limits, many times faster than cell objects are
made.
"""

from __future__ import annotations

import datetime
import io
import itertools
import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, ParseError, fromstring, iterparse

from .limits import COLUMNS, SHEET_ROWS, Limits
from .schema import CorpusError
from .splits import split_name
from .table import (
    HEADER_WITHIN,
    Sides,
    Table,
    check_header,
    has_sides,
    header_place,
    say_header,
    say_repeated,
    short,
)

LONGEST_CELL = 32_767
"""Characters of a cell: writers cut what is longer, without a word."""

BROKEN: tuple[type[Exception], ...] = (
    zipfile.BadZipFile,
    zlib.error,
    KeyError,
    IndexError,
    ValueError,
    OverflowError,
    OSError,
    EOFError,
    ParseError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
)
_LOOKED_INTO = 8
"""Sheets whose header is looked at to tell what corpus a workbook holds."""

_LOOKED_AT = 100_000
"""Elements of XML that are read for it."""

DEEPEST = 64
"""Elements of XML that stand in one another; a sheet has six."""

_ESCAPED = re.compile(r"_x(00[01][0-9A-Fa-f]|005[Ff])_")
_DATES = {*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59)}
"""Numbers of the built-in formats of dates and times."""

Cells = dict[int, Any]
"""Column, from 0 -> value; an empty cell is not there."""


@dataclass
class Sheet:
    """One worksheet: (row number from 1, cells) of every row that is not empty.

    Attributes:
        formulas: cells that are formulas without a saved value, read as the formula's text.
        full: cells as long as a cell may be, so probably cut by whoever wrote them.
    """

    title: str
    hidden: bool
    rows: list[tuple[int, Cells]]
    formulas: int = 0
    full: int = 0


Sheets = dict[str, tuple[list[str], list[tuple[int, list[Any]]]]]


def read_workbook(content: bytes, name: str) -> Sheets:
    """Every worksheet: its name -> (header, [(row number, cells as many as the header's)]); the header is row 1.

    Raises:
        CorpusError: not an .xlsx workbook, or one without a sheet.
    """
    found: Sheets = {}
    limits = Limits(name, len(content))
    for sheet in read_sheets(content, limits):
        first = sheet.rows[0][1] if sheet.rows and sheet.rows[0][0] == 1 else {}
        header = _names(first)
        limits.check_rows(len(sheet.rows), max(1, len(header)))
        rows = sheet.rows[1:] if first else sheet.rows
        found[sheet.title] = (
            header,
            [(number, [cells.get(column) for column in range(len(header))]) for number, cells in rows],
        )
    return found


def read_excel(content: bytes, name: str, sides: Sides = (None, None)) -> list[Table]:
    """The worksheets with the columns that are looked for; row numbers are those of the sheet.

    Where some of them are named after splits, those alone are read, as of files in a folder. What is passed over is
    said. Without such a sheet the first one is read, whose columns are then complained of.
    """
    limits = Limits(name, len(content))
    sheets = read_sheets(content, limits)
    fit = [sheet for sheet in sheets if not sheet.hidden and has_sides_within(sheet, sides)]
    splits = [sheet for sheet in fit if split_name(sheet.title)]
    chosen = splits or fit or [next((sheet for sheet in sheets if sheet.rows), sheets[0])]
    named: dict[str, str] = {}
    for sheet in splits:
        split = split_name(sheet.title) or ""
        if split in named:
            raise CorpusError(f"{name} has two sheets for {split}, '{named[split]}' and '{sheet.title}': keep one")
        named[split] = sheet.title
    tables = [
        _table(sheet, limits, sides, alone=len(sheets) == 1 or (len(fit) == 1 and not splits)) for sheet in chosen
    ]
    passed = [sheet for sheet in sheets if sheet not in chosen and sheet.rows]
    if len(chosen) > 1:
        tables[0].guesses.append(f"{len(chosen)} sheets are read: {_titles(chosen)}")
    if passed:
        tables[0].guesses.append(f"sheets that are not read: {_titles(passed)} ({_why(passed, fit)})")
    return tables


def has_sides_within(sheet: Sheet, sides: Sides) -> bool:
    """Whether one of the first rows of a sheet names the columns of texts before and after."""
    return any(has_sides(_names(cells), sides) for _, cells in sheet.rows[:HEADER_WITHIN])


def first_header(content: bytes, name: str) -> list[str]:
    """The columns of the first sheet that has the usual ones, or else of the first sheet with rows."""
    book = _Book(content, Limits(name, len(content)))
    book.left = min(book.left, _LOOKED_AT)
    found: list[list[str]] = []
    for title, hidden, part in book.parts[:_LOOKED_INTO]:
        rows = [cells for _, cells in itertools.islice(_rows(book, part, Sheet(title, hidden, [])), HEADER_WITHIN)]
        names = [_names(cells) for cells in rows]
        if names:
            found.append([column for column in names[header_place(names, (None, None))] if column])
        if names and any(has_sides(row, (None, None)) for row in names):
            return found[-1]
    return found[0] if found else []


def read_sheets(content: bytes, limits: Limits) -> list[Sheet]:
    """Reads every worksheet.

    Raises:
        CorpusError: not a workbook, a broken one, one without a sheet, or one beyond the limits.
    """
    try:
        book = _Book(content, limits)
        sheets = []
        count = 0
        for title, hidden, part in book.parts:
            sheet = Sheet(title, hidden, [])
            for row in _rows(book, part, sheet):
                sheet.rows.append(row)
                count += 1
                if count % 4096 == 0:
                    limits.check_rows(count)
            limits.check_rows(count)
            sheets.append(sheet)
    except BROKEN as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(f"{limits.name} is not a readable .xlsx workbook: {short(error)}") from error
    if not sheets:
        raise CorpusError(f"{limits.name} has no worksheet: save the table as a sheet, or as CSV")
    return sheets


def _table(sheet: Sheet, limits: Limits, sides: Sides, *, alone: bool) -> Table:
    name = limits.name if alone else f"{limits.name}[{sheet.title}]"
    table = Table(name, split="" if alone else split_name(sheet.title) or "")
    if alone:
        table.split = split_name(sheet.title) or ""
    if not sheet.rows:
        return table
    place = header_place([_names(cells) for _, cells in sheet.rows[:HEADER_WITHIN]], sides)
    number, header_cells = sheet.rows[place]
    header = {column: str(cell).strip() for column, cell in header_cells.items() if str(cell).strip()}
    names = list(header.values())
    check_header(names, limits)
    limits.check_rows(len(sheet.rows), max(1, len(names)))
    table.columns = names
    say_header(table, place, number, "row")
    repeated = []
    for number, cells in sheet.rows[place + 1 :]:
        record = {name: cells.get(column) for column, name in header.items()}
        if len(names) > 1 and all(value == name for name, value in record.items()):
            repeated.append(number)
        else:
            table.records.append((number, record))
    say_repeated(table, repeated, "row")
    if sheet.formulas:
        table.guesses.append(f"{sheet.formulas} cells are formulas without a saved value and are read as their text")
    if sheet.full:
        table.guesses.append(
            f"{sheet.full} cells have {LONGEST_CELL:,} characters, the most of a cell, so their ends are probably lost"
        )
    return table


def _names(cells: Cells) -> list[str]:
    """A row as a header: names without white space around them, "" where a cell is empty."""
    if not cells:
        return []
    return [str(cells.get(column, "")).strip() for column in range(max(cells) + 1)]


def _titles(sheets: Sequence[Sheet]) -> str:
    names = ", ".join(f"'{short(sheet.title)}'" for sheet in sheets[:6])
    return names + (f" and {len(sheets) - 6} more" if len(sheets) > 6 else "")


def _why(passed: Sequence[Sheet], fit: Sequence[Sheet]) -> str:
    if not fit:
        return "give the names of the columns to choose another sheet"
    if any(sheet in fit for sheet in passed):
        return "others are named after splits"
    return "hidden" if all(sheet.hidden for sheet in passed) else "without the columns"


class _Book:
    """The parts of a workbook, unpacked one by one and no further than the limits allow."""

    def __init__(self, content: bytes, limits: Limits) -> None:
        self._zip = zipfile.ZipFile(io.BytesIO(content))
        self.limits = limits
        self.left = limits.elements
        self._unpacked = 0
        self._strings: list[str] = []
        self._more: Iterator[str] = iter(())
        self.dates: list[bool] = []
        main = next(
            (self._target("", r) for r in self._relations("") if r.get("Type", "").endswith("/officeDocument")), ""
        )
        main = main or "xl/workbook.xml"
        relations = {relation.get("Id"): relation for relation in self._relations(main)}
        root = fromstring(self.part(main))
        self.from_1904 = any(_flag(e.get("date1904")) for e in root if _tag(e) == "workbookPr")
        self.parts: list[tuple[str, bool, str]] = []
        for sheet in root.iter():
            if _tag(sheet) != "sheet":
                continue
            key = next((value for name, value in sheet.attrib.items() if name.endswith("}id")), "")
            relation = relations.get(key)
            # Sheets of a chart alone have no cells.
            if relation is not None and relation.get("Type", "").endswith("/worksheet"):
                title = sheet.get("name", "")
                self.parts.append((title, sheet.get("state", "visible") != "visible", self._target(main, relation)))
        for relation in relations.values():
            kind, target = relation.get("Type", ""), self._target(main, relation)
            if kind.endswith("/sharedStrings") and target in self._zip.namelist():
                self._more = _shared(self, self.part(target))
            elif kind.endswith("/styles") and target in self._zip.namelist():
                self.dates = _date_styles(fromstring(self.part(target)))

    def part(self, name: str) -> bytes:
        with self._zip.open(name) as file:
            content = file.read(self.limits.unpacked - self._unpacked + 1)
        self._unpacked += len(content)
        self.limits.check_unpacked(self._unpacked)
        if b"<!DOCTYPE" in content[:4096]:
            raise ValueError(f"{name} declares a document type, which no workbook does")
        return content

    def string(self, number: int) -> str:
        """A text by its number; they are read as far as they are asked for."""
        if number < 0:
            raise IndexError(f"there is no text {number}")
        if number >= len(self._strings):
            self._strings.extend(itertools.islice(self._more, max(1024, number + 1 - len(self._strings))))
        return self._strings[number]

    def _relations(self, part: str) -> list[Element]:
        folder, file = posixpath.split(part)
        try:
            return list(fromstring(self.part(posixpath.join(folder, "_rels", f"{file}.rels"))))
        except KeyError:
            return []

    @staticmethod
    def _target(part: str, relation: Element) -> str:
        target = relation.get("Target", "")
        base = "" if target.startswith("/") else posixpath.dirname(part)
        return posixpath.normpath(posixpath.join(base, target.lstrip("/")))


def _rows(book: _Book, part: str, sheet: Sheet) -> Iterator[tuple[int, Cells]]:
    letters: dict[str, int] = {}
    last = 0
    for element in _elements(book, book.part(part), "row"):
        number = _row_number(element.get("r"), last)
        last = number
        cells: Cells = {}
        column = -1
        for cell in element:
            place = cell.get("r")
            if place is None:
                column += 1
            else:
                word = place.rstrip("0123456789")
                if (known := letters.get(word)) is None:
                    known = letters[word] = _column_number(word)
                column = known
            value = _value(book, cell, sheet)
            if value is not None:
                cells[column] = value
        element.clear()
        if cells:
            yield number, cells


def _elements(book: _Book, content: bytes, name: str) -> Iterator[Element]:
    """Every element of a name, when it ends; the caller empties it.

    Empty rows and cells cost time and hardly any bytes of the file, so all elements are counted.
    """
    deep = 0
    for event, element in iterparse(io.BytesIO(content), events=("start", "end")):
        if event == "start":
            deep += 1
            book.left -= 1
            if deep > DEEPEST:
                raise ValueError(f"elements stand in one another more than {DEEPEST} deep")
            if book.left < 0:
                book.limits.refuse_elements()
        else:
            deep -= 1
            tag = element.tag
            if tag.endswith(name) and tag.rpartition("}")[2] == name:
                yield element


def _row_number(text: str | None, last: int) -> int:
    if text is None:
        number = last + 1
    elif text.isascii() and text.isdigit() and len(text) < 20:
        number = int(text)
    else:
        raise ValueError(f"a row has the number '{text[:20]}'")
    if number > SHEET_ROWS:
        raise ValueError(f"a row says that it is row {number}, and a sheet has at most {SHEET_ROWS:,}")
    return number


def _column_number(letters: str) -> int:
    number = 0
    for letter in letters[:4]:
        if not "A" <= letter.upper() <= "Z":
            raise ValueError(f"a cell has the place '{letters[:20]}'")
        number = number * 26 + ord(letter.upper()) - 64
    if not 1 <= number <= COLUMNS:
        raise ValueError(f"a cell stands in column '{letters[:20]}', and a sheet has at most {COLUMNS:,}")
    return number - 1


def _value(book: _Book, cell: Element, sheet: Sheet) -> Any:
    kind = cell.get("t", "n")
    text = formula = inline = None
    for child in cell:
        tag = child.tag
        if tag.endswith("}v"):
            text = child.text
        elif tag.endswith("}is"):
            inline = child
        elif tag.endswith("}f"):
            formula = child.text
    if kind == "inlineStr":
        value: Any = _text_of(inline) if inline is not None else text
    elif text is None:
        if formula:
            sheet.formulas += 1
            return f"={formula}"
        return None
    elif kind == "s":
        value = book.string(int(text))
    elif kind == "n":
        value = _number(text)
        style = cell.get("s")
        if style is not None and not isinstance(value, str) and style.isdigit() and len(style) < 9:
            place = int(style)
            if place < len(book.dates) and book.dates[place]:
                return _date(value, book.from_1904)
        return value
    elif kind == "b":
        return text.strip() not in ("0", "")
    else:  # a formula's text, an error, a date in ISO form
        value = _unescaped(text)
    if isinstance(value, str) and len(value) >= LONGEST_CELL:
        sheet.full += len(value) == LONGEST_CELL
    return value


def _number(text: str) -> int | float | str:
    try:
        return int(text) if len(text) < 20 and "." not in text and "e" not in text.lower() else float(text)
    except ValueError:
        return text


def _date(value: int | float, from_1904: bool) -> Any:
    try:
        start = datetime.datetime(1904, 1, 1) if from_1904 else datetime.datetime(1899, 12, 30)
        found = start + datetime.timedelta(seconds=round(value * 86_400))
    except (OverflowError, ValueError):
        return value
    return found.date() if found.time() == datetime.time() else found


def _shared(book: _Book, content: bytes) -> Iterator[str]:
    for element in _elements(book, content, "si"):
        yield _text_of(element)
        element.clear()


def _text_of(element: Element) -> str:
    """The text of a cell, of one piece or of several with fonts of their own; how it is pronounced is left out."""
    pieces = []
    for child in element:
        tag = _tag(child)
        if tag == "t":
            pieces.append(child.text or "")
        elif tag == "r":
            pieces += [inner.text or "" for inner in child if _tag(inner) == "t"]
    return _unescaped("".join(pieces))


def _unescaped(text: str) -> str:
    """Characters that XML cannot hold are written as _x0007_, and an underscore that would look so as _x005F_."""
    return _ESCAPED.sub(lambda found: chr(int(found.group(1), 16)), text) if "_x" in text else text


def _date_styles(root: Element) -> list[bool]:
    """For each style of cells, whether it shows a date or a time."""
    own = {e.get("numFmtId"): _is_date(e.get("formatCode", "")) for e in root.iter() if _tag(e) == "numFmt"}
    formats = next((e for e in root if _tag(e) == "cellXfs"), None)
    found = []
    for style in formats if formats is not None else ():
        number = style.get("numFmtId", "0")
        found.append(own.get(number, number.isdigit() and len(number) < 9 and int(number) in _DATES))
    return found


def _is_date(code: str) -> bool:
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]|\\.|_.', "", code).lower()
    return code.lower().startswith(("[h", "[m", "[s")) or (
        any(letter in bare for letter in "dmyhs") and "general" not in bare
    )


def _flag(text: str | None) -> bool:
    return text in ("1", "true")


def _tag(element: Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
