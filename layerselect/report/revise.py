"""The report of a revision-generation run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..metrics import RevisionScores
from .after_run import IN_WORDS, next_commands, sentences
from .diff import difference_html
from .edits import INTENTION_HEADS, edit_heads, edits_of, lines_by_kind, lines_of_texts
from .numbers import NONE, plural, score
from .page import page_environment, svg
from .selection import SelectionShares, lacking
from .state_cache import cache_sentence

#: A page with more predictions than this is slow to open.
MAX_PREDICTIONS = 500
#: The scores of an example, in the order of the page: key, name, digits.
SCORES = (
    ("sari", "SARI", 1),
    ("add", "add", 1),
    ("keep", "keep", 1),
    ("delete", "delete", 1),
    ("sentence_gleu", "GLEU", 3),
    ("update_rouge", "Update-ROUGE", 3),
    ("exact_match", "exact match", 0),
    ("copy", "copied", 0),
)
#: The columns of the table of results in which more is better, with their digits.
QUALITY = (
    ("sari", 1),
    ("add", 1),
    ("keep", 1),
    ("delete", 1),
    ("gleu", 3),
    ("update_rouge", 3),
    ("exact_match", 3),
)
_CURVES = (("sari", "SARI"), ("add", "add"), ("keep", "keep"), ("delete", "delete"))


@dataclass(frozen=True)
class ReviseReport:
    """What the page shows.

    Attributes:
        settings, training, versions: tables of names and values.
        corpus: ``name``, ``fingerprint``, ``notes``, ``defects`` (the first ones), ``defect_count``, and ``splits``:
            for each its ``examples``, ``documents``, how many texts were ``cut``, and ``intentions`` with their counts.
        splits: for each split, the scores of the baselines and, last, of the trained model.
        predictions: the lines of ``predictions.jsonl``: ``id, split, intentions, source, references, prediction,
            scores``.
        metrics, losses: the lines of ``metrics.jsonl`` and ``training.jsonl``.
        frequency: how many selections each layer was in.
        history: ``step`` [n], ``scores`` [n, L], ``mask`` [n, L], ``trained`` [n, L] if it is known.
        transfer: ``kind`` (shared, all or none), ``layers`` (taken over), ``own`` (the generator's choice), ``ratio``,
            ``frequency`` (of the predictor), ``own_frequency``, ``own_steps``, ``first_loss``, ``untrained_loss``,
            ``warnings``. What a run did not measure may be missing or ``None``. ``None`` where the run had no
            predictor.
    """

    settings: Mapping[str, Any]
    corpus: Mapping[str, Any]
    training: Mapping[str, Any]
    versions: Mapping[str, str]
    splits: Mapping[str, Mapping[str, RevisionScores]]
    predictions: Sequence[Mapping[str, Any]]
    metrics: Sequence[Mapping[str, Any]]
    losses: Sequence[Mapping[str, Any]]
    layer_names: Sequence[str]
    frequency: Sequence[int]
    history: Mapping[str, np.ndarray]
    transfer: Mapping[str, Any] | None = None


def write_revise_report(path: Path, report: ReviseReport) -> None:
    """Writes the page to ``path``.

    Raises:
        LayerSelectError: jinja2 or matplotlib is not installed.
    """
    # A text with half a surrogate pair has no UTF-8; the page shows a question mark there.
    path.write_text(render(report), encoding="utf-8", errors="replace")


def render(report: ReviseReport) -> str:
    """The page as text; everything that comes from a corpus, a model or an option is escaped."""
    environment = page_environment()
    from .figures import curves, frequency_bars
    from .heat_map import heat_map, legend

    shares = SelectionShares.of(report.history)
    shown = sorted(report.predictions, key=_by_sari)[:MAX_PREDICTIONS]
    intentions = list(dict.fromkeys(name for record in shown for name in record["intentions"]))
    return environment.get_template("revise.html.j2").render(
        r=report,
        lead=_lead(report),
        headline=_headline(report),
        heat_map=svg(heat_map(report.history, report.layer_names)) if shares.steps else "",
        legend=legend(report.history),
        frequency=svg(frequency_bars(shares.selected, shares.steps, shares.trained)) if shares.steps else "",
        shares=shares.sentence(),
        lacking=lacking(report.history),
        curves=svg(curves(report.losses, report.metrics, _CURVES, top=100)),
        state_cache=cache_sentence(report.training),
        after_run=sentences(report.training),
        training={name: value for name, value in report.training.items() if name not in IN_WORDS},
        next_commands=next_commands("revise", str(report.settings["out"])) if "out" in report.settings else {},
        transfer=_transfer(report.transfer) if report.transfer else None,
        quality=QUALITY,
        edits={split: lines for split, rows in report.splits.items() if (lines := lines_by_kind(edits_of(rows)))},
        edit_heads=edit_heads(),
        edit_intentions=_edits_by_intention(report.splits),
        intention_heads=INTENTION_HEADS,
        columns=SCORES,
        intentions=intentions,
        corpus_intentions=_corpus_intentions(report.corpus),
        pairs=[_pair(record, intentions) for record in shown],
        total=len(report.predictions),
        shown_splits=list(dict.fromkeys(record["split"] for record in shown)),
    )


def _lead(report: ReviseReport) -> str:
    """One sentence on what was run, of the facts that are known."""
    settings, training = report.settings, report.training
    known = [str(settings[key]) for key in ("model",) if settings.get(key)]
    known += [f"{key} {settings[key]}" for key in ("adapter", "rule") if settings.get(key)]
    if training.get("mode"):
        known.append(f"mode {training['mode']}")
    if report.transfer:
        known.append(f"transfer {report.transfer['kind']}")
    if training.get("steps") is not None:
        known.append(plural(training["steps"], "step"))
    if settings.get("seed") is not None:
        known.append(f"seed {settings['seed']}")
    return ", ".join(known) + "." if known else ""


def _headline(report: ReviseReport) -> dict[str, Any]:
    """The split that the page opens with: one that did not choose the checkpoint, if there is one."""
    chosen_by = report.corpus.get("chosen_by")
    names = sorted(report.splits, key=lambda name: (name == chosen_by, name != "test"))
    split = names[0] if names else None
    return {"split": split, "rows": report.splits.get(split, {}), "independent": split != chosen_by}


def _edits_by_intention(splits: Mapping[str, Mapping[str, RevisionScores]]) -> list[tuple[str, str, str, Any]]:
    """Split, text, intention and cells of each line."""
    return [
        (split, *line)
        for split, rows in splits.items()
        for line in lines_of_texts({name: report.by_intention for name, report in rows.items()})
    ]


def _corpus_intentions(corpus: Mapping[str, Any]) -> list[str]:
    """The intentions of all splits, in the order in which they appear."""
    return list(dict.fromkeys(name for facts in corpus["splits"].values() for name in facts["intentions"]))


def _transfer(transfer: Mapping[str, Any]) -> dict[str, Any]:
    """The section on the transfer: its figure, and the ratio in words."""
    from .figures import transfer_bars

    shared, own = sorted(transfer.get("layers") or ()), sorted(transfer.get("own") or ())
    frequency, own_frequency = transfer.get("frequency") or (), transfer.get("own_frequency") or ()
    ratio = transfer.get("ratio")
    warnings = list(transfer.get("warnings") or ())
    if ratio is not None and ratio < 0.5 and not warnings:
        warnings.append(
            f"The alignment ratio is {score(ratio, 2)}: less than half of the layers that the generator needs were "
            "taken over."
        )
    drawing = ""
    if len(frequency) or len(own_frequency):
        drawing = svg(transfer_bars(frequency, shared, own_frequency, own, transfer.get("own_steps")))
    return {
        "kind": transfer["kind"],
        "shared": shared,
        "own": own,
        "both": sorted(set(shared) & set(own)),
        "ratio": ratio,
        "first_loss": transfer.get("first_loss"),
        "untrained_loss": transfer.get("untrained_loss"),
        "warnings": warnings,
        "drawing": drawing,
    }


def _by_sari(record: Mapping[str, Any]) -> tuple[float, str]:
    """The order of the page: the lowest SARI first, then by id; without a SARI last."""
    value = _score(record, "sari")
    return (math.inf if value is None else value, str(record["id"]))


def _score(record: Mapping[str, Any], key: str) -> float | None:
    value = record["scores"].get(key)
    return None if value is None or not math.isfinite(value) else float(value)


def _pair(record: Mapping[str, Any], intentions: Sequence[str]) -> dict[str, Any]:
    """One row of the side-by-side view."""
    source = record["source"]
    values = [(name, _score(record, key), digits) for key, name, digits in SCORES]
    return {
        "id": record["id"],
        "split": record["split"],
        "intentions": record["intentions"],
        # The script filters by the place of an intention in the list, so that no label has to be an attribute's value.
        "places": " ".join(str(intentions.index(name)) for name in record["intentions"]),
        "values": " ".join("-" if value is None else f"{value:.6g}" for _, value, _ in values),
        "scores": [(name, _written(value, digits)) for name, value, digits in values],
        "prediction": svg(difference_html(source, record["prediction"])),
        "references": [svg(difference_html(source, reference)) for reference in record["references"]],
        "empty": not record["prediction"].strip(),
    }


def _written(value: float | None, digits: int) -> str:
    """A score with its digits; one without digits is yes or no."""
    if value is None:
        return NONE
    return score(value, digits) if digits else ("yes" if value else "no")
