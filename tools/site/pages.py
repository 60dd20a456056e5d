"""Hooks of mkdocs: pages from the parser and from files outside of docs/, and links that hold on both sides.

Files of docs/ are read in the repository, too. There a link leads to a file (``../CONTRIBUTING.md``). On the site it
leads to the page that the file has become; where the file has no page, it is plain text.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tools.site import commands  # noqa: E402

#: Files outside of docs/ that have a page.
TAKEN_IN = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "bench/README.md": "benchmarks.md",
}
#: Files whose place on the site is taken by another page.
STAND_INS = {"README.md": "index.md"}

_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are not files of docs/."""
    for place, page in TAKEN_IN.items():
        files.append(File.generated(config, page, content=(ROOT / place).read_text(encoding="utf-8")))
    made = commands.pages()
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    section = next(entry for entry in config.nav if "Command line" in entry)
    names = [Path(page).stem for page in made if not page.endswith("index.md")]
    section["Command line"] = ["commands/index.md", *({name: f"commands/{name}.md"} for name in names)]
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns links to files of the repository into links to pages."""
    origin = next((place for place, own in TAKEN_IN.items() if own == page.file.src_uri), f"docs/{page.file.src_uri}")
    return outside_code(markdown, lambda text: _LINK.sub(lambda match: _link(match, origin, page.file.src_uri), text))


def outside_code(markdown: str, change: Any) -> str:
    """``change`` applied to what is not in a fenced block."""
    done, parts = 0, []
    for fence in _FENCE.finditer(markdown):
        parts += [change(markdown[done : fence.start()]), fence[0]]
        done = fence.end()
    return "".join([*parts, change(markdown[done:])])


def _link(match: re.Match[str], origin: str, own: str) -> str:
    text, target = match.groups()
    if re.match(r"[a-z]+:|#", target):
        return match[0]
    place, hash_, anchor = target.partition("#")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), place))
    page = path.removeprefix("docs/") if path.startswith("docs/") else {**TAKEN_IN, **STAND_INS}.get(path)
    if page is not None:
        relative = posixpath.relpath(page, posixpath.dirname(own) or ".")
        return f"[{text}]({relative}{hash_}{anchor})"
    if (ROOT / path).exists():
        return text if path in text else f"{text} (`{path}` in the repository)"
    return match[0]  # mkdocs says that it leads nowhere
