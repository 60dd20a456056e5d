"""Fenced blocks of a page, and what the comments in front of them say about running them.

A comment that readers do not see stands right before a block:

    <!-- docs-test: skip, it needs a GPU -->         the block is listed as skipped, with this reason
    <!-- docs-test: prelude NAME -->                 a function of preludes.py makes what the block takes for granted
    <!-- docs-test: with --max-steps 4 -->           these options are added to the training commands of the block

Several may follow one another. ``<!-- docs-test: skip page, REASON -->`` at the top of a page is for all of its blocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

#: Blocks in these languages run; `text`, `toml` and the like only show something.
LANGUAGES = ("python", "bash")

_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!-- docs-test: (.*?) -->")
_COMMENTS_BEFORE = re.compile(r"(?:<!-- docs-test: .*? -->\s*)+\Z")
_OF_PAGE = re.compile(r"<!-- docs-test: skip page, (.*?) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        page: the file, relative to the repository.
        line: where its code begins.
        skip: why it does not run; empty where it does.
        preludes: what is to be made before it.
        options: what is added to its training commands.
    """

    page: str
    line: int
    language: str
    code: str
    skip: str = ""
    preludes: tuple[str, ...] = ()
    options: str = ""


def pages() -> list[Path]:
    """Every page that is written by hand and shows code."""
    written = sorted((ROOT / "docs").rglob("*.md"))
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *written]


def blocks_of(page: Path) -> Iterator[Block]:
    """The blocks of a page that run, or would."""
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(ROOT).as_posix()
    of_page = _OF_PAGE.search(text)
    for fence in _FENCE.finditer(text):
        indent, language, code = fence.groups()
        if language not in LANGUAGES:
            continue
        said = _COMMENTS_BEFORE.search(text[: fence.start()])
        orders = _COMMENT.findall(said[0]) if said else []
        skip = of_page[1] if of_page else ""
        preludes, options = [], ""
        for order in orders:
            what, _, rest = order.replace(",", " ", 1).partition(" ")
            if what == "skip":
                skip = rest.strip()
            elif what == "prelude":
                preludes.append(rest.strip())
            elif what == "with":
                options = rest.strip()
            else:
                raise ValueError(f"{name}: <!-- docs-test: {order} --> is none of skip, prelude and with")
        code = "".join(line.removeprefix(indent) for line in code.splitlines(keepends=True))
        line = text[: fence.start()].count("\n") + 2
        yield Block(name, line, language, code, skip, tuple(preludes), options)


def unmarked_fences(page: Path) -> list[int]:
    """Lines of fences that name no language: nobody can tell whether they should run."""
    text = page.read_text(encoding="utf-8")
    return [text[: fence.start()].count("\n") + 1 for fence in _FENCE.finditer(text) if not fence[2]]
