"""Figures in sentences of the documentation, made of the same files as its tables.

A sentence stands here once, with fields for its figures. In the page it is plain text; it is found there by what stands
between the fields, and its figures are written anew.
"""

from __future__ import annotations

import functools
import json
import re
import statistics
import string
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from tools.attempts import fixed_blend
from tools.choices import jobs
from tools.claims import rows_beside
from tools.kept_predictions import Predictions

ROOT = Path(__file__).parents[1]
MEASUREMENTS = ROOT / "docs" / "measurements"
_MINILM = "iterater-minilm"
#: Blends: the folder of a comparison, and its row whose answers they are; without a row, those of ``all`` with a weight
#: that is not chosen.
_BLENDS: dict[str, tuple[str, str | None]] = {"blend": (_MINILM, "all/lora@blend"), "base": ("iterater-mpnet", None)}

_NUMBER = r"[-+]?\d[\d.,]*(?<![.,])"
_INTERVAL = rf"{_NUMBER} \({_NUMBER} to {_NUMBER}\)"
#: By page, its sentences. A field of a number has a format, one of a difference with its interval has ``!s``, and one
#: of text has neither.
SENTENCES: dict[str, tuple[str, ...]] = {
    "README.md": (
        "macro-F1 {ir.quality:.3f} and {all.quality:.3f}: {ir.verdict} (95 % {ir.low:+.3f} to {ir.high:+.3f}); "
        "{ir.saved:.2f} of the activations, {ir.time:.2f} of the processor's time.",
        "macro-F1 {cached.quality:.3f}: {cached.verdict} ({cached.low:+.3f} to {cached.high:+.3f}); {cached.step:.2f} "
        "of a step's arithmetic, {cached.activations:.2f} of the activations.",
        "macro-F1 {blend.quality:.3f} and {regression.quality:.3f}: {blend.f1!s} beside it, in accuracy "
        "{blend.right!s}. Its answers are blends with a regression on the text; the model alone reaches "
        "{all.quality:.3f}.",
        "SARI {writer.tuned:.1f} and {writer.all:.1f}; the copied source has {writer.copied:.1f}, and "
        "{writer.copies:.2f} of the revisions are copies.",
        "[{frameworks.cases:d} cases in frameworks]",
        "[{families.count:d} families of models]",
    ),
    "docs/measurements/index.md": (
        "`ir` {ir.quality:.3f} macro-F1, all layers {all.quality:.3f}: **{ir.verdict}** ({ir.mean:+.3f}, 95 % "
        "{ir.low:+.3f} to {ir.high:+.3f}); {ir.saved:.2f} of the activations",
        "Half of the layers at random reach {random.quality:.3f}, the upper half {half.quality:.3f}; only `head` "
        "({head.quality:.3f}) is told from all layers",
        "{blend.quality:.3f} against {regression.quality:.3f} macro-F1 under folds by document, three epochs of "
        "MiniLM: {blend.f1!s} beside it, in accuracy {blend.right!s}; a base-size encoder {base.f1!s} and "
        "{base.right!s}. **Not alone**: {all.quality:.3f} ({regression.verdict}, {regression.low:+.3f} to "
        "{regression.high:+.3f})",
        "`edits` {formats.edits:.3f} macro-F1, `pair` {formats.pair:.3f}, `plain` {formats.plain:.3f}, `contextual` "
        "{formats.contextual:.3f}",
        "SARI {writer.tuned:.1f}, LoRA in all layers {writer.all:.1f}, the copied source {writer.copied:.1f}, three "
        "examples and no training {writer.shown:.1f}. {writer.copies:.2f} of the revisions are their source, and "
        "{writer.made:.2f} of the references' edits are made",
        "{job.pilot:.2f} of the processor's time of training all layers, the pilot's {job.own:.2f} included; macro-F1 "
        "{job.quality:.3f} and {job.all:.3f}",
        "{frameworks.works:d} of {frameworks.cases:d} cases work, {frameworks.refused:d} are refused with a reason, "
        "{frameworks.warned:d} warned, none failed unsaid, {frameworks.untried:d} were not tried",
        "{families.count:d} families of `transformers`",
    ),
    "docs/measurements/comparisons.md": (
        "the upper half keeps {half.saved:.2f} of the activations, IR-Tuning's rule {ir.saved:.2f}, half of the layers "
        "at random {random.saved:.2f}.",
        "A run of a fold differs from another one of the same row by {spread.run:.3f} macro-F1",
        "over five folds their mean effect is {spread.shift:.1f} standard errors at most",
        "they tell a difference of {spread.two:.3f}, three seeds one of {spread.three:.3f} and five one of "
        "{spread.five:.3f} (",
        "runs of this corpus differed by {spread.run:.3f} with the smaller model",
        "with MiniLM runs of one row differed by {spread.run:.3f} on a fold.",
    ),
}


def sentence(template: str) -> str:
    """A sentence with its figures."""
    return string.Formatter().vformat(template, (), _Values())


def written(page: str, text: str) -> str:
    """A page with the figures of its sentences as the files have them.

    Args:
        page: its place in the repository.

    Raises:
        ValueError: a sentence does not stand in the page exactly once.
    """
    for template in SENTENCES.get(page, ()):
        found = re.findall(_pattern(template), text)
        if len(found) != 1:
            raise ValueError(f"{page} has {len(found)} sentences like {sentence(template)!r}: change tools/figures.py")
        text = text.replace(found[0], sentence(template))
    return text


def without(page: str, text: str) -> str:
    """A page without its sentences that are written."""
    for template in SENTENCES.get(page, ()):
        text = re.sub(_pattern(template), " ", text)
    return text


def _pattern(template: str) -> str:
    """What finds the sentence, whatever its figures are."""
    parts = []
    for literal, field, form, whole in string.Formatter().parse(template):
        parts.append(re.escape(literal))
        if field is not None:
            parts.append(_INTERVAL if whole else _NUMBER if form else r"[a-z][a-z ]*?")
    return "".join(parts)


class _Values(dict[str, Any]):
    """What the fields stand for, made when a sentence asks for it."""

    def __missing__(self, name: str) -> Any:
        if name == "frameworks":
            return _frameworks()
        if name == "families":
            return SimpleNamespace(count=len(_json(ROOT / "docs" / "families.json")))
        if name == "job":
            return _job("iterater-smollm2", "pilots/iterater-smollm2")
        if name == "spread":
            return _spread(_MINILM)
        if name == "formats":
            return _formats("iterater-minilm-formats")
        if name == "writer":
            return _writer("iterater-writer")
        if name in _BLENDS:
            return _blend(*_BLENDS[name])
        return _rows(_MINILM)[_ROWS[name]]


#: The rows of the comparison, by their short names.
_ROWS = {
    "all": "all/lora",
    "ir": "ir/lora",
    "half": "top-half/lora",
    "random": "random/lora",
    "head": "head/lora",
    "cached": "budget-cached/lora",
    "regression": "logistic regression",
}


@functools.cache
def _rows(name: str) -> dict[str, SimpleNamespace]:
    """Of each row of a comparison its quality, its difference from the reference, and its costs beside it."""
    rows = _beside(name)
    reference = rows[_ROWS["all"]].values
    found = {}
    for row in rows.values():
        facts: dict[str, Any] = {"quality": row.values["macro_f1"].mean, "verdict": row.verdict}
        if row.difference is not None:
            facts |= {part: getattr(row.difference, part) for part in ("mean", "low", "high")}
        for short, key in (("step", "step_share"), ("activations", "activation_share")):
            if key in row.values:
                facts[short] = row.values[key].mean
        for short, key in (("saved", "saved_mb"), ("time", "processor_seconds_per_step")):
            if key in row.values and key in reference:
                facts[short] = row.values[key].mean / reference[key].mean
        found[row.name] = SimpleNamespace(**facts)
    return found


@functools.cache
def _blend(name: str, row: str | None) -> SimpleNamespace:
    """The macro-F1 of blends, and what they are beside the regression in macro-F1 and in accuracy."""
    kept = Predictions(MEASUREMENTS / name)
    runs = [fixed_blend(kept)] if row is None else kept.of_each_seed(row)
    f1, right = kept.mean_beside(runs, kept.of_baseline(_ROWS["regression"]))
    return SimpleNamespace(quality=statistics.mean(kept.facts(each)[0] for each in runs), f1=f1, right=right)


@functools.cache
def _job(name: str, pilot: str) -> SimpleNamespace:
    """What a pilot and the training of what it chose took, as shares of the processor's time of training all layers."""
    made = jobs(MEASUREMENTS, name, pilot)
    whole = list(made.values())[-1]
    share, alone = whole.shares[0], made[whole.row].shares[0]
    return SimpleNamespace(
        pilot=share, own=share - alone, quality=float(whole.quality), all=float(made[_ROWS["all"]].quality)
    )


@functools.cache
def _writer(name: str) -> SimpleNamespace:
    """The SARI of writers, and what those of Intention-Tuning do."""
    rows = _beside(name)
    of = {
        "tuned": "intention-tuning/lora",
        "all": _ROWS["all"],
        "copied": "source copied",
        "shown": "untrained, 3 shots",
    }
    known = rows[of["tuned"]].values
    return SimpleNamespace(
        copies=known["copy_rate"].mean,
        made=known["edits_made"].mean,
        **{short: rows[row].values["sari"].mean for short, row in of.items()},
    )


@functools.cache
def _formats(name: str) -> SimpleNamespace:
    """The macro-F1 of rows that differ in what the model reads."""
    rows = _beside(name, _ROWS["ir"])
    read = {"edits": _ROWS["ir"], **{each: f"{_ROWS['ir']}@{each}" for each in ("pair", "plain", "contextual")}}
    return SimpleNamespace(**{each: rows[row].values["macro_f1"].mean for each, row in read.items()})


@functools.cache
def _spread(name: str) -> SimpleNamespace:
    """How much the runs of a comparison of two seeds differ, and what as many rows tell with more seeds.

    ``run`` is the standard deviation of a fold's run, ``shift`` the largest mean effect of a seed over the folds, in
    standard errors.
    """
    from layerselect.tasks.compare.power import Shape
    from layerselect.tasks.compare.prospect import power_of_rows
    from layerselect.tasks.compare.state import saved_config

    kept, config = Predictions(MEASUREMENTS / name), saved_config(MEASUREMENTS / name)
    rows = [kept.of_each_seed(row.name) for row in kept.plain_rows() if len(kept.seeds_of(row.name)) == 2]
    folds = range(len(kept.folds))
    moved = np.array([[kept.quality(a, [fold]) - kept.quality(b, [fold]) for fold in folds] for a, b in rows])
    errors = moved.std(axis=1, ddof=1) / len(folds) ** 0.5
    compared = list(_beside(name).values())
    documents = next(row.difference.variance.count for row in compared if row.difference)

    def told(seeds: int) -> float:
        shape = Shape(documents, seeds, config.folds, len(config.variants) - 1, config.within)
        found = power_of_rows(compared, shape)
        assert found is not None
        return found.difference

    return SimpleNamespace(
        run=float(np.sqrt((moved**2 / 2).mean())),
        shift=float(np.abs(moved.mean(axis=1) / errors).max()),
        **{word: told(seeds) for word, seeds in (("two", 2), ("three", 3), ("five", 5))},
    )


@functools.cache
def _beside(name: str, reference: str = _ROWS["all"]) -> Any:
    """The rows of a comparison beside one of them."""
    return rows_beside(MEASUREMENTS / name, reference)[0]


def _frameworks() -> SimpleNamespace:
    results = [each["result"] for each in _json(ROOT / "docs" / "frameworks.json").values()]
    counts = {name: results.count(name) for name in ("works", "refused", "warned")}
    return SimpleNamespace(cases=len(results), untried=len(results) - sum(counts.values()), **counts)


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
