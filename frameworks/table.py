"""The table: results are collected in ``docs/frameworks.json``, and ``docs/frameworks.md`` is rendered from it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from .case import Case
from .environments import ROOT
from .kept import result_of

DATA = ROOT / "docs" / "frameworks.json"
PAGE = ROOT / "docs" / "frameworks.md"
BEGIN, END = "<!-- begin: written by make frameworks -->", "<!-- end -->"
#: Named once above the table, since every row has them.
EVERYWHERE = ("torch", "numpy")
#: What the words in the table are.
WORDS = {"untried": "not tried", "failed": "**failed**"}
#: The column whose cases stand in one row when all else is alike.
JOINED = {"Optimizers": "optimizer", "Adapters": "adapter"}


def write(cases: Sequence[Case]) -> None:
    """Collects what is kept of the cases and renders the page."""
    collected = collect(cases)
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(one)}" for name, one in collected.items())
    DATA.write_text(f"{{\n{lines}\n}}\n")
    render(cases, collected)


def collect(cases: Iterable[Case]) -> dict[str, dict[str, Any]]:
    """For each case what came of it: from this run, or from an earlier one on another machine."""
    earlier = json.loads(DATA.read_text()) if DATA.exists() else {}
    collected = {}
    for case in cases:
        kept = result_of(case)
        if kept is not None:
            collected[case.name] = _short(case, kept)
        elif case.name in earlier:
            collected[case.name] = earlier[case.name]
    return collected


def render(cases: Sequence[Case], collected: dict[str, dict[str, Any]]) -> None:
    """Writes the part of the page between the marks; the rest is written by hand."""
    head, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}\n\n{tables(cases, collected)}\n{END}{tail}")


def tables(cases: Sequence[Case], collected: dict[str, dict[str, Any]]) -> str:
    """What stands between the marks."""
    counts = Counter(one["result"] for one in collected.values())
    said = ", ".join(
        f"{counts[result]} {WORDS.get(result, result).strip('*')}"
        for result in ("works", "refused", "warned", "failed", "untried")
    )
    common = sorted(
        {f"{name} {v}" for one in collected.values() for name, v in one["versions"].items() if name in EVERYWHERE}
    )
    lines = [f"{len(cases)} cases: {said}. All of them with {', '.join(common)}.", ""]
    for section in dict.fromkeys(case.section for case in cases):
        lines += [
            f"### {section}",
            "",
            "| framework | optimizer | adapter | engine | result | versions |",
            "|---|---|---|---|---|---|",
        ]
        lines += _rows([case for case in cases if case.section == section], collected)
        lines.append("")
    return "\n".join(lines)


def _rows(cases: Iterable[Case], collected: dict[str, dict[str, Any]]) -> list[str]:
    """The rows of a section; cases that differ in one column alone are joined."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for case in cases:
        one = collected.get(case.name)
        result = "not run yet" if one is None else _result(one)
        versions = (
            "" if one is None else ", ".join(f"{n} {v}" for n, v in one["versions"].items() if n not in EVERYWHERE)
        )
        row = {"framework": case.framework, "optimizer": case.optimizer, "adapter": case.adapter, "engine": case.engine}
        column = JOINED.get(case.section, "")
        group, _, name = row.get(column, "").rpartition(": ")
        if column:
            row[column] = f"{group}: \0" if group else "\0"
        rows.setdefault((*row.values(), result, versions), []).append(name)
    return [
        "| " + " | ".join(_cell(cell.replace("\0", ", ".join(names))) for cell in row) + " |"
        for row, names in rows.items()
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _result(one: dict[str, Any]) -> str:
    by_mode: dict[str, list[str]] = {}
    for run in one["runs"]:
        by_mode.setdefault(_said(run), []).append(run["mode"])
    if len(by_mode) <= 1:
        return _said(one)
    return "; ".join(f"{', '.join(modes)}: {said}" for said, modes in by_mode.items())


def _said(one: dict[str, Any]) -> str:
    word = WORDS.get(one["result"], one["result"])
    return f"{word}: {one['sentence']}" if one["sentence"] else word


def _short(case: Case, kept: dict[str, Any]) -> dict[str, Any]:
    """What the table needs of a result."""
    names = (*EVERYWHERE, *case.packages)
    return {
        "result": kept["result"],
        "sentence": kept["sentence"],
        "runs": [{key: run[key] for key in ("mode", "result", "sentence")} for run in kept["runs"]],
        "versions": {name: kept["versions"][name] for name in names if name in kept["versions"]},
    }
