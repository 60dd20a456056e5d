"""The table: results are collected in ``docs/families.json``, and ``docs/families.md`` is rendered from it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from .kept import ROOT, result_of
from .trial import TASKS

DATA = ROOT / "docs" / "families.json"
PAGE = ROOT / "docs" / "families.md"
BEGIN, END = "<!-- begin: written by make families -->", "<!-- end -->"
#: The columns, in words.
HEADS = {
    "classifier": "`intent`",
    "generate": "`intent --head generate`",
    "revise": "`revise`",
    "cache": "cached hidden states",
    "card": "`card`",
}
WORDS = {"wrong": "**wrong**"}
KINDS = {"decoder": "Decoders", "encoder": "Encoders", "encoder-decoder": "Encoder-decoders"}


def write(families: Sequence[str]) -> None:
    """Collects what is kept and renders the page."""
    collected = collect(families)
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(one, ensure_ascii=False)}" for name, one in collected.items())
    DATA.write_text(f"{{\n{lines}\n}}\n")
    head, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}\n\n{tables(collected)}\n{END}{tail}")


def collect(families: Sequence[str]) -> dict[str, dict[str, Any]]:
    """For each family what came of it, in this run or in an earlier one on another machine."""
    earlier = json.loads(DATA.read_text()) if DATA.exists() else {}
    collected = {}
    for family in families:
        kept = result_of(family)
        if kept is not None:
            tasks = {
                task: {"result": cell["result"], "sentence": cell["sentence"]} for task, cell in kept["tasks"].items()
            }
            collected[family] = {"kind": kept["kind"], "builds": kept["builds"], "tasks": tasks}
        elif family in earlier:
            collected[family] = earlier[family]
    return collected


def tables(collected: Mapping[str, Mapping[str, Any]]) -> str:
    """What stands between the marks: counts, a table for each kind, the sentences, and what does not build."""
    built = {name: one for name, one in collected.items() if not one["builds"]}
    counts = {
        task: Counter(one["tasks"][task]["result"] for one in built.values() if task in one["tasks"]) for task in TASKS
    }
    said = "; ".join(
        f"{HEADS[task]} {', '.join(f'{number} {result}' for result, number in sorted(count.items(), reverse=True))}"
        for task, count in counts.items()
    )
    versions = ", ".join(f"{name} {version(name)}" for name in ("transformers", "peft", "torch"))
    lines = [f"{len(built)} families of {versions}: {said}.", ""]
    sentences: dict[str, int] = {}
    for kind in dict.fromkeys(one["kind"] for one in built.values()):
        lines += [
            f"### {KINDS.get(kind, kind.capitalize() or 'Others')}",
            "",
            f"| family | {' | '.join(HEADS.values())} |",
            "|---|" + "---|" * len(HEADS),
        ]
        for name, one in built.items():
            if one["kind"] == kind:
                lines.append(f"| {name} | {' | '.join(_cell(one['tasks'].get(task), sentences) for task in TASKS)} |")
        lines.append("")
    lines += ["### The sentences", ""]
    lines += [f"{number}. {_plain(sentence)}" for sentence, number in sentences.items()]
    lines += ["", "### What does not build from a small configuration", ""]
    lines += [f"- {name}: {_plain(one['builds'])}" for name, one in collected.items() if one["builds"]]
    return "\n".join(lines)


def _cell(found: Mapping[str, str] | None, sentences: dict[str, int]) -> str:
    if found is None:
        return "not tried"
    word = WORDS.get(found["result"], found["result"])
    if not found["sentence"]:
        return word
    # The model is called by its folder, which is the same for all.
    return f"{word} [{sentences.setdefault(found['sentence'], len(sentences) + 1)}]"


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;").replace("|", "\\|")
