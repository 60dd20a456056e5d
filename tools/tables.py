"""Tables of the documentation, made of the files under docs/measurements. `make tables` runs it.

python -m tools.tables           # writes every table anew
python -m tools.tables --check   # writes nothing; says which tables are not those of the files

A page has a table where it says ``<!-- table: WHAT -->`` and ``<!-- end of table -->``. Places are relative to
docs/measurements. WHAT is one of these:

- the folder of a comparison, or several of them separated by blanks;
- ``verdicts.json``, ``claims.json``, ``pilot-races.json``, ``memory-by-part.json`` or ``thresholds.json``;
- ``plans`` or ``plans-timed``, folders of what ``layerselect plan --json`` wrote;
- ``attempts``, ``beside`` or ``blends``, and the folder of a comparison;
- ``sizes``, the folder of a comparison of training sizes, and that of one of the whole;
- ``choices``, the folder of a comparison, and rows and placements;
- ``edits`` and the folder of a comparison of writers: its edits by kind and by intention;
- ``jobs``, the folder of a comparison, and pilots of its trainings;
- ``pilot`` and a ``pilot.json``.

Columns named behind ``without:`` are left out. Figures in sentences are written, too: ``tools/figures.py`` says in
which. Others must stand in a table of the page (``tools/prose.py``).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from layerselect.utils import markdown
from tools import figures, prose
from tools.attempts import attempts_table, beside_table, blends_table
from tools.choices import choices_table, jobs_table
from tools.claims import claims_table
from tools.figures import MEASUREMENTS, ROOT
from tools.sizes import sizes_table
from tools.thresholds import thresholds_table

DOCS = ROOT / "docs"
_TABLE = re.compile(r"<!-- table: ([\w ./=:,\[\]-]+?)(?: without: ([^>]*?))? -->.*?<!-- end of table -->", re.DOTALL)


def written(text: str) -> str:
    """A page with its tables as the files have them."""

    def table(found: re.Match[str]) -> str:
        head = found[0].partition("-->")[0] + "-->"
        left_out = [each.strip() for each in (found[2] or "").split(",") if each.strip()]
        return f"{head}\n\n{_table(found[1].split(), left_out)}\n<!-- end of table -->"

    return _TABLE.sub(table, text)


def pages() -> list[Path]:
    """The pages that may have tables, or figures in their sentences."""
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def as_files_have_it(page: Path, text: str) -> str:
    """A page with its tables and the figures in its sentences as the files have them."""
    return figures.written(page.relative_to(ROOT).as_posix(), written(text))


def _table(places: list[str], left_out: list[str]) -> str:
    from layerselect.tasks.compare import comparison_rows, markdown_table, read_comparison
    from layerselect.tasks.compare.edits import edits_markdown
    from layerselect.tasks.compare.several import several_table
    from layerselect.tasks.compare.state import saved_config

    if places == ["verdicts.json"]:
        return _verdicts(json.loads((MEASUREMENTS / "verdicts.json").read_text(encoding="utf-8")))
    if places[0] == "attempts":
        return attempts_table(MEASUREMENTS / places[1])
    if places[0] == "beside":
        return beside_table(MEASUREMENTS / places[1])
    if places[0] == "blends":
        return blends_table(MEASUREMENTS / places[1])
    if places[0] == "sizes":
        return sizes_table(MEASUREMENTS / places[1], MEASUREMENTS / places[2])
    if places[0] == "edits":
        return edits_markdown(read_comparison(saved_config(MEASUREMENTS / places[1])))
    if places[0] == "jobs":
        return jobs_table(MEASUREMENTS, *places[1:])
    if places[0] == "choices":
        return choices_table(MEASUREMENTS, *places[1:])
    if places[0] == "pilot":
        return _pilot(json.loads((MEASUREMENTS / places[1]).read_text(encoding="utf-8")))
    if places == ["claims.json"]:
        return claims_table(MEASUREMENTS / "claims.json")
    if places == ["thresholds.json"]:
        return thresholds_table(MEASUREMENTS / "thresholds.json")
    if places == ["pilot-races.json"]:
        return _races(json.loads((MEASUREMENTS / "pilot-races.json").read_text(encoding="utf-8")))
    if places == ["memory-by-part.json"]:
        return _parts(json.loads((MEASUREMENTS / "memory-by-part.json").read_text(encoding="utf-8")))
    if places in (["plans"], ["plans-timed"]):
        files = sorted((MEASUREMENTS / places[0]).glob("*.json"))
        plans = [json.loads(path.read_text(encoding="utf-8")) for path in files]
        make = _plans if places == ["plans"] else _times
        return make(sorted(plans, key=lambda plan: plan["parameters"]))
    found = [read_comparison(saved_config(MEASUREMENTS / place)) for place in places]
    if len(found) > 1:
        return several_table(found).markdown()
    return markdown_table(found[0], comparison_rows(found[0]), without=left_out)


def _verdicts(content: dict[str, Any]) -> str:
    heads = ["documents", "folds", "seeds", "runs differ by", "simulations", "wrong verdicts", "undecided at 0"]
    heads += ["promised to tell", "told, where 80% was promised"]
    rows = [
        [
            str(each["documents"]),
            str(each["folds"]) if each["folds"] > 1 else "none",
            str(each["seeds"]),
            f"{each['runs_in_macro_f1']:.3f}",
            f"{each['simulations']:,}",
            f"{each['wrong']:.1%}",
            f"{each['undecided_at_0']:.0%}",
            f"{each['told']:.3f}",
            f"{each['found_at_told']:.0%}",
        ]
        for each in content["settings"]
    ]
    return markdown.table(heads, rows)


def _races(content: dict[str, Any]) -> str:
    heads = ["true of the candidates", "documents", "folds", "seeds", "more rounds", "runs differ by", "margin"]
    heads += ["races", "wrong", "undecided", "of all trainings made"]
    rows = [
        [
            each["name"],
            f"{each['documents']:,}",
            *(str(each[name]) for name in ("folds", "seeds", "more")),
            f"{each['runs_in_macro_f1']:.3f}",
            f"{each['margin']:g}",
            f"{each['simulations']:,}",
            f"{each['wrong']:.1%}",
            f"{each['undecided']:.0%}",
            f"{each['trained']:.0%}",
        ]
        for each in content["races"]
    ]
    return markdown.table(heads, rows)


def _pilot(content: dict[str, Any]) -> str:
    from layerselect.report.pilot import left_in_words

    heads = ("candidate", "layers", "cost of a step", "difference", "interval", "verdict")
    rows = [
        (
            each["name"],
            ", ".join(map(str, each["layers"])) or "none",
            f"{each['cost']:.0%}",
            f"{look['mean']:+.3f}",
            f"{look['low']:+.3f} to {look['high']:+.3f}",
            left_in_words(each["state"], each["left"]),
        )
        for each in content["candidates"]
        for look in each["looks"][-1:]
    ]
    sizes, rounds = content["sizes"], content["rounds"]
    return (
        f"{markdown.table(heads, rows)}\nShort trainings of {sizes['steps']:,} steps, tested on {sizes['held_out']:,} "
        f"examples; {rounds['done']} of {rounds['planned']} rounds; {content['cost']:.0%} of one full training. "
        f"{'Answer' if content['answer']['sure'] else 'Not certain'}: {content['answer']['chosen']}.\n"
    )


def _parts(content: dict[str, Any]) -> str:
    """Gradients and optimizer state together, in MB, by part; and how much of them is outside of the layers."""
    parts = ("layers", "embeddings", "head")
    lines = []
    for row in content["rows"]:
        sizes = {part: held["gradients"] + held["optimizer"] for part, held in row["parts"].items()}
        whole = sum(sizes.values())
        cells = [f"{sizes[part] / 1e6:,.0f}" if part in sizes else "" for part in parts]
        cells += [f"{whole / 1e6:,.0f}", f"{1 - sizes['layers'] / whole:.0%}"]
        lines.append([row["model"], row["way"], *cells])
    return markdown.table(("model", "trained", *parts, "in all", "outside"), lines)


#: The columns of the plans: heading, way, how the weights are held, checkpointing, and which figure.
_PLANNED = (
    ("full", "full", None, False, "peak"),
    ("all", "all", None, False, "peak"),
    ("ir, most steps", "ir", None, False, "usual_peak"),
    ("top-half", "top-half", None, False, "peak"),
    ("cost-aware, most steps", "cost-aware", None, False, "usual_peak"),
    ("cached", "cached", None, False, "peak"),
    ("all, checkpointing", "all", None, True, "peak"),
    ("all, 8bit, checkpointing", "all", "8bit", True, "peak"),
    ("all, 4bit, checkpointing", "all", "4bit", True, "peak"),
)


def _plans(plans: list[dict[str, Any]]) -> str:
    lines = []
    for plan in plans:
        cells = [Path(plan["settings"]["model"]).stem, f"{plan['parameters'] / 1e9:.2f} billion"]
        for _, way, held, again, figure in _PLANNED:
            row = next(
                row
                for row in plan["rows"]
                if (row["way"], row["checkpointing"]) == (way, again) and row["weights_in"] == (held or plan["dtype"])
            )
            cells.append(f"{row[figure] / 1e9:.1f}")
        lines.append(cells)
    return markdown.table(("model", "weights", *(heading for heading, *_ in _PLANNED)), lines)


def _times(plans: list[dict[str, Any]]) -> str:
    """Minutes of a training, by how it trains; of ``cached`` all epochs but the first."""
    ways = ("full", "all", "ir", "top-half", "cost-aware", "cached")
    lines = []
    for plan in plans:
        for again in (False, True):
            rows = {row["way"]: row for row in plan["rows"] if row["checkpointing"] is again}
            times = [f"{rows[way]['seconds'] * plan['settings']['steps'] / 60:.1f}" for way in ways]
            lines.append([Path(plan["settings"]["model"]).stem, "yes" if again else "no", *times])
    return markdown.table(("model", "checkpointing", *ways), lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, and fail where a table is another one")
    check = parser.parse_args().check
    stale, alone = [], []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        new = as_files_have_it(page, text)
        if new != text:
            stale.append(page)
            if not check:
                page.write_text(new, encoding="utf-8")
        for figure in prose.in_no_table(page.relative_to(ROOT).as_posix(), new):
            alone.append(f"{page.relative_to(ROOT)}: {figure} stands in no table of the page: mend the sentence")
    sys.stdout.write("".join(f"{each}\n" for each in alone))
    for page in stale:
        state = "has other tables or figures than its files: run make tables" if check else "written"
        sys.stdout.write(f"{page.relative_to(ROOT)}: {state}\n")
    return 1 if alone or (check and stale) else 0


if __name__ == "__main__":
    raise SystemExit(main())
