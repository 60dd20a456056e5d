"""The report of an intention run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import LayerSelectError
from ..metrics import ClassificationReport

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class IntentReport:
    """What the page shows.

    Attributes:
        settings, corpus, training, versions: tables of names and values.
        splits: for each split, the reports of the floors and, last, of the trained model.
        metrics, losses: the lines of ``metrics.jsonl`` and ``training.jsonl``.
        frequency: how many selections each layer was in.
        history: ``step`` [n], ``scores`` [n, L], ``mask`` [n, L].
    """

    settings: Mapping[str, Any]
    corpus: Mapping[str, Any]
    training: Mapping[str, Any]
    versions: Mapping[str, str]
    labels: Sequence[str]
    multi_label: bool
    splits: Mapping[str, Mapping[str, ClassificationReport]]
    metrics: Sequence[Mapping[str, Any]]
    losses: Sequence[Mapping[str, Any]]
    layer_names: Sequence[str]
    frequency: Sequence[int]
    history: Mapping[str, np.ndarray]


def write_intent_report(path: Path, report: IntentReport) -> None:
    """Writes the page to ``path``.

    Raises:
        LayerSelectError: jinja2 or matplotlib is not installed.
    """
    path.write_text(render(report), encoding="utf-8")


def render(report: IntentReport) -> str:
    """The page as text; everything that comes from a corpus or an option is escaped."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup

        from .figures import curves, frequency_bars, heat_map
    except ImportError as error:
        raise LayerSelectError(f"the report needs {error.name}: pip install 'layerselect[report]'") from error
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["shade"] = _shade
    steps = len(report.history["step"])
    return environment.get_template("intent.html.j2").render(
        r=report,
        headline=_headline(report),
        heat_map=Markup(heat_map(report.history, report.layer_names)) if steps else "",
        frequency=Markup(frequency_bars(report.frequency, _selections(report))) if steps else "",
        curves=Markup(curves(report.losses, report.metrics)),
    )


def _headline(report: IntentReport) -> dict[str, Any]:
    """The split that the page opens with: one that did not choose the checkpoint, if there is one."""
    chosen_by = report.corpus.get("chosen_by")
    names = [name for name in ("test", "validation", "holdout") if name in report.splits]
    independent = [name for name in names if name != chosen_by]
    split = (independent or names or [None])[0]
    return {"split": split, "reports": report.splits.get(split, {}), "independent": bool(independent)}


def _selections(report: IntentReport) -> int:
    return max(1, len(report.history["step"]))


def _number(value: Any) -> str:
    """Numbers with at most four significant digits; everything else as it is."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    return str(value)


def _shade(count: int, row: Sequence[int]) -> str:
    """The background of a confusion cell: the share of its row."""
    total = sum(row)
    alpha = 0.75 * count / total if total else 0.0
    return f"rgba(37,99,235,{alpha:.3f})"
