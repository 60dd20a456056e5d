"""What is true of all pages with code, and of the marks in front of it."""

from __future__ import annotations

import pytest

from . import preludes
from .blocks import ROOT, blocks_of, pages, unmarked_fences

BLOCKS = [block for page in pages() for block in blocks_of(page)]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_fence_names_its_language(page):
    assert unmarked_fences(page) == []


def test_there_are_blocks_of_both_kinds():
    assert {block.language for block in BLOCKS if not block.skip} == {"python", "bash"}
    assert any(block.page == "README.md" and not block.skip for block in BLOCKS)


def test_preludes_are_there():
    assert [name for block in BLOCKS for name in block.preludes if not hasattr(preludes, name)] == []


def test_marks_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("docs_tests.blocks.ROOT", tmp_path)
    page = tmp_path / "page.md"
    lines = [
        "<!-- docs-test: prelude threads -->",
        "<!-- docs-test: with --max-steps 1 -->",
        "```bash\nlayerselect demo\n```\n",
        "<!-- docs-test: skip, it needs a GPU -->\n",
        "```python\n1 / 0\n```\n",
        "text\n",
        "    ```python\n    x = 1\n    ```\n",
        "```text\nnothing to run\n```",
    ]
    page.write_text("\n".join(lines), encoding="utf-8")
    first, second, third = blocks_of(page)
    assert (first.line, first.preludes, first.options, first.skip) == (4, ("threads",), "--max-steps 1", "")
    assert (second.skip, second.code) == ("it needs a GPU", "1 / 0\n")
    assert (third.code, third.skip) == ("x = 1\n", "")
    page.write_text("<!-- docs-test: ship it -->\n```python\n```\n", encoding="utf-8")
    with pytest.raises(ValueError, match="none of skip, prelude and with"):
        list(blocks_of(page))
