"""A griffe extension: docstrings in reStructuredText's roles become Markdown with links to the pages of the API."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|meth|func|attr|mod|data|exc|obj):`(~?)([\w.]+)`")
_LITERAL = re.compile(r"``([^`]+)``")
_BLOCK = re.compile(r"^(\s*)(.*?)::[ \t]*$", re.MULTILINE)


class CrossReferences(griffe.Extension):
    """Rewrites every docstring that mkdocstrings shows."""

    def on_instance(self, *, node: Any, obj: griffe.Object, agent: Any, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value, obj)


def as_markdown(text: str, obj: griffe.Object) -> str:
    """``:class:`~a.b.C``` as an optional link called ``C``; ``::`` in front of code as what Markdown expects."""

    def link(match: re.Match[str]) -> str:
        shortened, target = match.groups()
        shown = target.rpartition(".")[2] if shortened else target
        identifier = target if "." in target else f"{_scope(obj)}.{target}"
        return f'<autoref identifier="{identifier}" optional><code>{shown}</code></autoref>'

    text = text.replace("][", "]&#8203;[")  # shapes are no references
    text = _ROLE.sub(link, text)
    text = _LITERAL.sub(r"`\1`", text)
    return _BLOCK.sub(lambda match: match[1] + (f"{match[2]}:" if match[2] else ""), text)


def _scope(obj: griffe.Object) -> str:
    """Where a bare name is looked for: the class, or the module, that the docstring is in."""
    holder = obj if obj.is_class or obj.is_module else obj.parent
    return holder.path if holder is not None else obj.path
