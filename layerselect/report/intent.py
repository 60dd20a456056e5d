"""The report of an intention run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..metrics import ClassificationReport
from .after_run import IN_WORDS, blend_line, next_commands, sentences
from .page import page_environment, svg
from .selection import SelectionShares, lacking
from .state_cache import cache_sentence


@dataclass(frozen=True)
class IntentReport:
    """What the page shows.

    Attributes:
        settings, corpus, training, versions: tables of names and values.
        splits: for each split, the reports of the baselines and, last, of the trained model.
        metrics, losses: the lines of ``metrics.jsonl`` and ``training.jsonl``.
        frequency: how many selections each layer was in.
        history: ``step`` [n], ``scores`` [n, L], ``mask`` [n, L], ``trained`` [n, L] if it is known.
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
    environment = page_environment()
    from .figures import curves, frequency_bars
    from .heat_map import heat_map, legend

    shares = SelectionShares.of(report.history)
    return environment.get_template("intent.html.j2").render(
        r=report,
        headline=_headline(report),
        heat_map=svg(heat_map(report.history, report.layer_names)) if shares.steps else "",
        legend=legend(report.history),
        frequency=svg(frequency_bars(shares.selected, shares.steps, shares.trained)) if shares.steps else "",
        shares=shares.sentence(),
        lacking=lacking(report.history),
        curves=svg(curves(report.losses, report.metrics)),
        state_cache=cache_sentence(report.training),
        after_run=sentences(report.training),
        blend=blend_line(report.training),
        training={name: value for name, value in report.training.items() if name not in IN_WORDS},
        next_commands=next_commands("intent", str(report.settings["out"])) if "out" in report.settings else {},
    )


def _headline(report: IntentReport) -> dict[str, Any]:
    """The split that the page opens with: one that did not choose the checkpoint, if there is one."""
    chosen_by = report.corpus.get("chosen_by")
    names = [name for name in ("test", "validation", "holdout") if name in report.splits]
    independent = [name for name in names if name != chosen_by]
    split = (independent or names or [None])[0]
    return {"split": split, "reports": report.splits.get(split, {}), "independent": bool(independent)}
