"""Links in the repository's own Markdown lead somewhere, anchors too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .blocks import ROOT

_FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href|srcset)=\"([^\"]+)\"")
_HEADING = re.compile(r"^#+ +(.*?)(?: *\{ *#([\w-]+).*\})?$", re.MULTILINE)

FILES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.md"), *(ROOT / "tests").glob("*.md")]
)


def anchors(path: Path) -> set[str]:
    """The anchors of a page, as mkdocs and the usual hosts of repositories make them."""
    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
    found = set(re.findall(r"id=\"([^\"]+)\"", text))
    for heading, given in _HEADING.findall(text):
        words = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        words = re.sub(r"[^\w\s-]", "", words).strip()
        found.add(given or re.sub(r"\s+", "-", words))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
    broken = []
    for target in (one or other for one, other in _LINK.findall(text)):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        goal = (path.parent / place).resolve() if place else path
        # The pages of the commands and of some files exist on the site alone, which `make docs` checks.
        if goal.exists():
            leads = not anchor or goal.suffix != ".md" or anchor in anchors(goal)
        else:
            leads = path.is_relative_to(ROOT / "docs") and _is_made(goal)
        if not leads:
            broken.append(target)
    assert broken == []


def _is_made(goal: Path) -> bool:
    from tools.site import commands

    names = [*commands.pages(), "contributing.md", "changelog.md", "security.md", "benchmarks.md"]
    return goal in [ROOT / "docs" / name for name in names]


def test_a_broken_link_is_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One title\n\n[a](page.md#one-title) [b](gone.md) [c](page.md#two)\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="gone.md"):
        test_links_lead_somewhere(page)
    assert anchors(page) == {"one-title"}
