"""The pages that are made: every option of every command is on one, and links lead to pages."""

from __future__ import annotations

import argparse
import re
import types

import pytest
import yaml

from .blocks import ROOT


def parsers(parser: argparse.ArgumentParser, name: str = ""):
    """Every command and action with its parser, by its path of names."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for own, command in action.choices.items():
                yield f"{name} {own}".strip(), command
                yield from parsers(command, f"{name} {own}".strip())


def test_every_option_is_on_its_page():
    from layerselect.cli.main import build_parser
    from tools.site import commands

    pages = commands.pages()
    seen = 0
    for name, parser in parsers(build_parser()):
        page = pages[f"commands/{name.split()[0]}.md"]
        assert f"`layerselect {name}`" in page
        for action in parser._actions:
            if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
                continue
            for option in action.option_strings:
                assert re.search(rf"`{re.escape(option)}[ `]", page), (name, option)
                seen += 1
    assert seen > 200


def test_help_is_no_markup():
    from tools.site.commands import _text

    assert _text("a * b_c <d> with --some-option and 'layerselect card --help'") == (
        r"a \* b\_c \<d\> with `--some-option` and `layerselect card --help`"
    )


def test_options_without_help_and_with_choices():
    from tools.site.commands import _page

    parser = argparse.ArgumentParser(prog="tool", description="Does 100 % of it.")
    parser.add_argument("--kind", choices=("a", "b"), required=True, help="which one")
    parser.add_argument("--hidden", help=argparse.SUPPRESS)
    parser.add_argument("place", metavar="PLACE")
    page = "\n".join(_page(parser))
    assert "`--kind` (required)\n:   which one; one of `a`, `b`" in page
    assert "`PLACE`" in page and "hidden" not in page and "Does 100 % of it." in page


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("guides/rules.md", "[c](../../CONTRIBUTING.md#adding-a-rule)", "[c](../contributing.md#adding-a-rule)"),
        ("measurements.md", "[r](../README.md)", "[r](index.md)"),
        ("frameworks.md", "[p](../frameworks/programs)", "p (`frameworks/programs` in the repository)"),
        ("benchmarks.md", "[s](../docs/state_cache.md)", "[s](state_cache.md)"),
        ("contributing.md", "[r](docs/releasing.md)", "[r](releasing.md)"),
        ("index.md", "[x](https://example.org) [y](#here) [gone](../gone.md)", None),
        ("index.md", "```text\n[r](../README.md)\n```", None),
    ],
)
def test_links_to_files_become_links_to_pages(page, text, expected):
    pytest.importorskip("mkdocs")  # where the extra `docs` is not installed, `make docs` alone checks this
    from tools.site import pages

    made = types.SimpleNamespace(file=types.SimpleNamespace(src_uri=page))
    assert pages.on_page_markdown(text, made) == (text if expected is None else expected)


def test_roles_become_links():
    griffe = pytest.importorskip("griffe")
    from tools.site.cross_references import as_markdown

    holder = griffe.Class("FastSelector", parent=griffe.Module("layerselect"))
    text = as_markdown("See :meth:`step` and :class:`~a.b.C`, ``code``::\n\n    x\n", holder)
    assert '<autoref identifier="layerselect.FastSelector.step" optional><code>step</code></autoref>' in text
    assert '<autoref identifier="a.b.C" optional><code>C</code></autoref>, `code`:\n' in text


def test_every_page_is_in_the_navigation():
    text = re.sub(r"!!python/name:\S+", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = set(re.findall(r"[\w/-]+\.md", str(yaml.safe_load(text)["nav"])))
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert there <= listed
