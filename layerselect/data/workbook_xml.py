"""The XML of an Excel workbook (.xlsx): its parts, rows and values, read within limits.

Reading the XML directly is many times faster than making an object of each cell.
"""

from __future__ import annotations

import io
import itertools
import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, ParseError, fromstring, iterparse

from .limits import Limits
from .workbook_values import (
    column_number,
    date_of,
    date_styles,
    is_set,
    number_of,
    row_number,
    tag_of,
    text_of,
    unescaped,
)

LONGEST_CELL = 32_767
"""The most characters of a cell; writers cut longer texts without a warning."""

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

DEEPEST = 64
"""How deep elements of XML may be nested; a sheet nests six."""

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


class Book:
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
        self.from_1904 = any(is_set(e.get("date1904")) for e in root if tag_of(e) == "workbookPr")
        self.parts: list[tuple[str, bool, str]] = []
        for sheet in root.iter():
            if tag_of(sheet) != "sheet":
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
                self.dates = date_styles(fromstring(self.part(target)))

    def part(self, name: str) -> bytes:
        with self._zip.open(name) as file:
            content = file.read(self.limits.unpacked - self._unpacked + 1)
        self._unpacked += len(content)
        self.limits.check_unpacked(self._unpacked)
        if b"<!DOCTYPE" in content[:4096]:
            raise ValueError(f"{name} declares a document type, which no workbook does")
        return content

    def string(self, number: int) -> str:
        """A shared text by its number. Texts are read no further than they are asked for."""
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


def rows_of(book: Book, part: str, sheet: Sheet) -> Iterator[tuple[int, Cells]]:
    """Yields (row number from 1, cells) of every row of a worksheet that is not empty."""
    letters: dict[str, int] = {}
    last = 0
    for element in _elements(book, book.part(part), "row"):
        number = row_number(element.get("r"), last)
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
                    known = letters[word] = column_number(word)
                column = known
            value = _value(book, cell, sheet)
            if value is not None:
                cells[column] = value
        element.clear()
        if cells:
            yield number, cells


def _elements(book: Book, content: bytes, name: str) -> Iterator[Element]:
    """Yields every element called ``name`` when it ends; the caller empties it.

    All elements are counted, since empty rows and cells cost time but hardly any bytes of the file.
    """
    deep = 0
    for event, element in iterparse(io.BytesIO(content), events=("start", "end")):
        if event == "start":
            deep += 1
            book.left -= 1
            if deep > DEEPEST:
                raise ValueError(f"elements are nested more than {DEEPEST} deep")
            if book.left < 0:
                book.limits.refuse_elements()
        else:
            deep -= 1
            tag = element.tag
            if tag.endswith(name) and tag.rpartition("}")[2] == name:
                yield element


def _value(book: Book, cell: Element, sheet: Sheet) -> Any:
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
        value: Any = text_of(inline) if inline is not None else text
    elif text is None:
        if formula:
            sheet.formulas += 1
            return f"={formula}"
        return None
    elif kind == "s":
        value = book.string(int(text))
    elif kind == "n":
        value = number_of(text)
        style = cell.get("s")
        if style is not None and not isinstance(value, str) and style.isdecimal() and len(style) < 9:
            place = int(style)
            if place < len(book.dates) and book.dates[place]:
                return date_of(value, book.from_1904)
        return value
    elif kind == "b":
        return text.strip() not in ("0", "")
    else:  # a formula's text, an error, a date in ISO form
        value = unescaped(text)
    if isinstance(value, str) and len(value) >= LONGEST_CELL:
        sheet.full += len(value) == LONGEST_CELL
    return value


def _shared(book: Book, content: bytes) -> Iterator[str]:
    for element in _elements(book, content, "si"):
        yield text_of(element)
        element.clear()
