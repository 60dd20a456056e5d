"""The bytes of a file and the text in them, with a sentence for every way in which there are none."""

from __future__ import annotations

import codecs
import os
import stat
from pathlib import Path

from . import limits
from .schema import CorpusError

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MAGIC = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook", (".xlsx", ".xlsm")),
    (b"\xd0\xcf\x11\xe0", "an old (.xls) or a password-protected workbook", ()),
    (b"PAR1", "a Parquet file", (".parquet",)),
    (b"ARROW1", "an Arrow file", (".arrow",)),
    (b"\x1f\x8b", "packed with gzip", ()),
    (b"BZh", "packed with bzip2", ()),
    (b"\xfd7zXZ", "packed with xz", ()),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", ()),
    (b"%PDF-", "a PDF document", ()),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", ()),
)


def shown(path: str | Path) -> str:
    """A path as a message prints it: one line that can be written, of bearable length."""
    text = str(path).encode("utf-8", "backslashreplace").decode()
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    return text if len(text) <= 300 else f"{text[:140]} ... {text[-140:]}"


def local_path(text: str | Path) -> Path:
    """The path that a user wrote, with ~ replaced.

    Raises:
        CorpusError: no path can be so: an unknown user's ~, a NUL, nothing at all.
    """
    if not str(text).strip():
        raise CorpusError("the path of the corpus is empty: give a file or a folder")
    if "\0" in str(text):
        raise CorpusError(f"the path {shown(text)} holds a NUL character: give the path of a file or a folder")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise CorpusError(
            f"{shown(text)} names the home of a user that is not known here: write the path out"
        ) from error


def is_there(path: Path) -> bool:
    """Whether there is anything at a path.

    Raises:
        CorpusError: it cannot be looked at: forbidden, too long, links in a circle.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise CorpusError(f"cannot look at {shown(path)}: {_reason(error)}") from error
    return True


def read_bytes(path: Path, *, needs: str = "revisions in it") -> bytes:
    """The content of a file.

    Args:
        needs: of what it should hold, for the message about an empty one: "give a file with ...".

    Raises:
        CorpusError: it is missing, a folder, a pipe, not readable, too large, empty, or of a type that its suffix
            does not say.
    """
    try:
        # Without O_NONBLOCK the opening of a pipe waits for somebody who writes into it.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise CorpusError(f"{shown(path)} is a pipe or a device, not a file: save its content as a file first")
            if found.st_size > limits.FILE:
                raise CorpusError(
                    f"{shown(path)} has {found.st_size / 2**30:,.1f} GB, and at most {limits.FILE >> 30} GB of one "
                    "file are read: split it into several files"
                )
            content = file.read()
    except IsADirectoryError as error:
        raise CorpusError(
            f"cannot read {shown(path)}: Is a directory, so give a file in it, or a folder of data files"
        ) from error
    except (OSError, ValueError) as error:
        raise CorpusError(f"cannot read {shown(path)}: {_reason(error)}") from error
    if not content.strip():
        raise CorpusError(f"{shown(path)} is empty: give a file with {needs}")
    check_type(content, path.suffix.lower(), shown(path))
    return content


def check_type(content: bytes, suffix: str, name: str) -> None:
    """Raise if the first bytes say that this is no file of its suffix's type."""
    for magic, what, suffixes in _MAGIC:
        if content.startswith(magic) and suffix not in suffixes:
            instead = f"rename it to {suffixes[0]}" if suffixes else "unpack, convert or fetch it first"
            raise CorpusError(f"{name} is {what}, whatever its suffix says: {instead}")


def decode(content: bytes, name: str, guesses: list[str] | None = None) -> str:
    """`content` as text, without a byte order mark: UTF-8, or UTF-16 or UTF-32 where it is plain that it is.

    Raises:
        CorpusError: it is none of them.
    """
    encoding = next((encoding for mark, encoding in _MARKS if content.startswith(mark)), "") or _without_mark(content)
    try:
        text = content.decode(encoding or "utf-8-sig").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        if encoding:
            raise CorpusError(
                f"{name} looks like {encoding.upper()} and is not ({error.reason}): save it as UTF-8 text"
            ) from error
        line = content.count(b"\n", 0, error.start) + 1
        raise CorpusError(f"{name} is not UTF-8 (first at line {line}): save it as UTF-8 text") from error
    if encoding and guesses is not None:
        guesses.append(f"read as {encoding.upper()} text")
    return text


def _without_mark(content: bytes) -> str:
    """UTF-16 that says nothing of itself: every other byte of Western text is NUL."""
    head = content[:4096]
    if len(head) >= 8 and len(head) % 2 == 0:
        for encoding, odd in (("utf-16-le", 1), ("utf-16-be", 0)):
            nul, other = head[odd::2].count(0), head[1 - odd :: 2].count(0)
            if nul > 0.7 * len(head) / 2 and other * 10 < nul:
                return encoding
    return ""


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else "") or str(error)
