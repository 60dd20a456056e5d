"""Figures in sentences beside tables of measurements: each stands in a table of its page, or the page says why not.

When a table is made anew, a sentence that still quotes the old one is found so. Only figures with decimals are looked
at. A short one may be in a table by chance, so this finds what is stale and does not prove what is right.

A page excuses figures that no table has, runs that were not kept for instance:

    <!-- in no table: .477, .547: runs that were not kept -->
"""

from __future__ import annotations

import re

from tools import figures

_TABLE = re.compile(r"<!-- table: .*?<!-- end of table -->", re.DOTALL)
_EXCUSED = re.compile(r"<!-- in no table: (.*?)(?::[^>]*)-->", re.DOTALL)
#: What has no measured figures: commands, names of programs, addresses, numbers of papers.
_OTHER = re.compile(
    r"^ {4}[^\n]*$|```.*?```|`[^`]*`|\]\([^)]*\)|arXiv [\d.]+(?:, [\d.]+)*|<!--.*?-->", re.DOTALL | re.MULTILINE
)
_FIGURE = re.compile(r"(?<![\w.,/])\d*\.\d+(?!\w|\.\d)")


def in_no_table(page: str, text: str) -> list[str]:
    """The figures in the sentences of a page of measurements that none of its tables has; none of a page without them.

    Args:
        page: its place in the repository.
    """
    tables = _TABLE.findall(text)
    if not tables or not page.startswith("docs/measurements/"):
        return []
    known = {float(each) for table in tables for each in _FIGURE.findall(table)}
    excused = {each for found in _EXCUSED.findall(text) for each in _FIGURE.findall(found)}
    sentences = _OTHER.sub(" ", figures.without(page, _TABLE.sub(" ", text)))
    found = dict.fromkeys(_FIGURE.findall(sentences))
    return [each for each in found if each not in excused and not _is_one_of(each, known)]


def _is_one_of(figure: str, known: set[float]) -> bool:
    half = 0.5 * 10.0 ** -len(figure.partition(".")[2]) + 1e-9
    return any(abs(each - float(figure)) <= half for each in known)
