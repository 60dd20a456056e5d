"""The tables of the documentation are those of the files that they are made of."""

from __future__ import annotations

import pytest

tables = pytest.importorskip("tools.tables", reason="the tools are not beside the tests")


@pytest.mark.parametrize("page", sorted(tables.DOCS.rglob("*.md")), ids=lambda page: page.name)
def test_a_page_has_the_tables_of_its_files(page):
    text = page.read_text(encoding="utf-8")
    if "<!-- table:" in text:
        assert tables.written(text) == text, "run make tables"


def test_what_is_kept_in_the_repository_holds_no_text():
    folders = [path.parent for path in tables.MEASUREMENTS.glob("*/compare.json")]
    assert folders
    for folder in folders:
        assert sum(path.stat().st_size for path in folder.rglob("*")) < 3_000_000
        for path in (folder / "kept").iterdir():
            assert "before" not in path.read_text(encoding="utf-8")
