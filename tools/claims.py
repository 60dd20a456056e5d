"""The papers' claims as one table: what is claimed, how it was tested here, the figure, the verdict.

``docs/measurements/claims.json`` says which row of which comparison tests a claim. Figures and verdicts are made of
what the comparison has kept; none is typed. A claim of quality is tested by the comparison's own interval, one of cost
by the ratios of runs with the same seed and fold (Student's interval of their logarithms), one of edits by how many
were made for each that the references make (percentiles of samples of documents), one of Layer Cards by the rank
correlation of a figure with the gains on the sample of the other card (an interval over layers).
"""

from __future__ import annotations

import functools
import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from layerselect.utils.markdown import table

if TYPE_CHECKING:
    from layerselect.tasks.compare.comparison import Comparison
    from layerselect.tasks.compare.rows import Row

#: What a claim says of the row beside its reference, and which verdicts of a comparison bear it out or deny it.
_BEARS_OUT = {"as good": ("as good", "better"), "better": ("better",), "worse": ("worse",)}
_DENIES = {"as good": ("worse",), "better": ("worse", "as good"), "worse": ("better", "as good")}
_SAMPLES = 2000
_HEADS = ("paper", "claim", "tested by", "figure", "verdict")


def claims_table(path: Path) -> str:
    """The table in Markdown.

    Args:
        path: of the file with the claims; comparisons lie beside it.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for claim in content["claims"]:
        figure, verdict = _tested(claim, path.parent)
        rows.append((claim["paper"], claim["claim"], claim["test"], figure, f"**{verdict}**"))
    return table(_HEADS, rows)


def _tested(claim: dict[str, Any], folder: Path) -> tuple[str, str]:
    """The figure and the verdict of one claim."""
    if "cost" in claim:
        return _cost(claim, folder)
    if "cards" in claim:
        return _cards(claim, folder)
    if "edits" in claim:
        return _edits(claim, folder)
    return _quality(claim, folder)


def _quality(claim: dict[str, Any], folder: Path) -> tuple[str, str]:
    rows, heading, digits = rows_beside(folder / claim["comparison"], claim["reference"])
    row = rows.get(claim["row"])
    if row is None or row.difference is None:
        return "", "not run"
    mean, low, high = (f"{each:+.{digits}f}" for each in (row.difference.mean, row.difference.low, row.difference.high))
    figure = f"{mean} {heading} (95% {low} to {high})"
    if row.unclear:
        return figure, f"undecided: {row.unclear}"
    if row.verdict in _BEARS_OUT[claim["says"]]:
        return figure, f"supported ({row.verdict})" if row.verdict != claim["says"] else "supported"
    if row.verdict in _DENIES[claim["says"]]:
        return figure, f"contradicted ({row.verdict})"
    return figure, "undecided"


@functools.lru_cache(maxsize=8)
def rows_beside(folder: Path, reference: str) -> tuple[Mapping[str, Row], str, int]:
    """The rows of a comparison beside a reference, by their names, with the heading and the digits of what is tested;
    no rows where it has no such reference.
    """
    from layerselect.errors import LayerSelectError
    from layerselect.tasks.compare.comparison import read_comparison
    from layerselect.tasks.compare.rows import comparison_rows
    from layerselect.tasks.compare.state import saved_config

    try:
        config = saved_config(folder, reference=reference)
    except LayerSelectError:
        return {}, "", 0
    _, heading, digits = config.kind.tested
    return {row.name: row for row in comparison_rows(read_comparison(config))}, heading, digits


def _edits(claim: dict[str, Any], folder: Path) -> tuple[str, str]:
    """Of a claim that few edits are made: how many for each of the references'."""
    from layerselect.errors import LayerSelectError
    from layerselect.tasks.compare.comparison import read_comparison
    from layerselect.tasks.compare.state import saved_config

    try:
        comparison = read_comparison(saved_config(folder / claim["comparison"]))
    except LayerSelectError:
        return "", "not run"
    made, asked = _edits_of_documents(comparison, claim["row"])
    if not asked.sum():
        return "", "not run"
    drawn = np.random.default_rng(0).integers(len(made), size=(_SAMPLES, len(made)))
    ratios = made[drawn].sum(axis=1) / np.maximum(asked[drawn].sum(axis=1), 1)
    low, high = np.percentile(ratios, (2.5, 97.5))
    figure = f"{made.sum() / asked.sum():.2f} edits for each of the references' (95% {low:.2f} to {high:.2f})"
    return figure, _less_than_one(low, high)


def _edits_of_documents(comparison: Comparison, name: str) -> tuple[np.ndarray, np.ndarray]:
    """How many edits a row made in each document, and how many its references make, over all seeds: int64 ``[n]``."""
    from layerselect.tasks.compare.counts import ReviseCounts

    counts, rows = ReviseCounts(), {}
    for variant in (each for each in comparison.config.variants if each.name == name):
        for (_, fold), run in comparison.finished(variant).items():
            documents = comparison.examples[fold][comparison.split].documents
            for document, each in zip(documents, run.statistics[comparison.split], strict=True):
                rows.setdefault((document, len(each)), []).append(each)  # earlier releases kept less
    reports = [report.edits for several in rows.values() if (report := counts.edits(np.stack(several)))]
    return np.array([each.made for each in reports]), np.array([each.asked for each in reports])


def _cost(claim: dict[str, Any], folder: Path) -> tuple[str, str]:
    """Of a claim that something becomes less: the ratio of the row's runs to the reference's."""
    from layerselect.tasks.compare.comparison import read_comparison
    from layerselect.tasks.compare.state import saved_config

    comparison = read_comparison(saved_config(folder / claim["comparison"]))
    found: dict[str, dict[tuple[int, int | None], float]] = {}
    for result in comparison.results:
        value = result.training.get(claim["cost"]) if result.reason is None else None
        if value:
            found.setdefault(result.run.variant.name, {})[result.run.seed, result.run.fold] = float(value)
    ours, theirs = found.get(claim["row"], {}), found.get(claim["reference"], {})
    ratios = [math.log(ours[part] / theirs[part]) for part in ours if part in theirs]
    if len(ratios) < 2:
        return "", "not run"
    mean, low, high = _interval(ratios)
    figure = f"{mean:.2f} of training all (95% {low:.2f} to {high:.2f}, {len(ratios)} runs)"
    return figure, _less_than_one(low, high)


def _less_than_one(low: float, high: float) -> str:
    """The verdict on a claim that a ratio is below 1, by its interval."""
    if high < 1:
        return "supported"
    return "contradicted" if low > 1 else "undecided"


def _cards(claim: dict[str, Any], folder: Path) -> tuple[str, str]:
    """Of a claim that a figure of cards tells what layers gain that are adapted alone, each on the other's sample."""
    from layerselect.card import LayerCard
    from layerselect.card.intervals import spearman, spearman_interval

    if not all((folder / place).is_file() for place in claim["cards"]):
        return "", "not run"
    cards = [LayerCard.load(folder / place) for place in claim["cards"]]
    words, intervals = [], []
    for one, other in (cards, cards[::-1]):
        figures = [getattr(layer, claim["card_figure"]) for layer in one.layers]
        found = spearman(figures, [layer.performance for layer in other.layers])
        low, high = spearman_interval(found, len(figures))
        words.append(f"{found:+.2f} (95% {low:+.2f} to {high:+.2f})")
        intervals.append((low, high))
    if all(low > 0 for low, _ in intervals):
        return " and ".join(words), "supported"
    return " and ".join(words), "contradicted" if all(high < 0 for _, high in intervals) else "undecided"


def _interval(logarithms: list[float]) -> tuple[float, float, float]:
    from scipy.stats import t

    mean = statistics.mean(logarithms)
    error = statistics.stdev(logarithms) / len(logarithms) ** 0.5
    width = float(t.ppf(0.975, len(logarithms) - 1)) * error
    return math.exp(mean), math.exp(mean - width), math.exp(mean + width)
