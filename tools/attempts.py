"""What can be made of a comparison's kept predictions beside its baseline, the logistic regression on changed words.

Every attempt is tested under the comparison's folds. What is chosen (a weight, a strength) is chosen for each fold on
the other folds' rows, by predictions of models that had not seen these rows. Differences are paired by document; where
an attempt puts several runs together there is one of it, so the interval is over documents alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from layerselect.report.numbers import plural
from layerselect.tasks.compare.cells import Cells
from layerselect.tasks.compare.comparison import read_comparison
from layerselect.tasks.compare.counts import PARTS, Truth, in_parts
from layerselect.tasks.compare.methods import Variant
from layerselect.tasks.compare.state import saved_config
from layerselect.tasks.run.baselines import TextRegression, WordBaseline
from layerselect.utils.markdown import table
from layerselect.utils.paired import Effect, Paired, Quality
from scipy.special import softmax

#: What is chosen from.
_WEIGHTS = tuple(float(each) for each in np.linspace(0.0, 1.0, 11))
REGRESSION = WordBaseline.name
#: What has a part in blends.
PARTNER = TextRegression.name
#: Of the model's log-probabilities, as ``intent --blend`` has it.
_BLEND = 0.3
#: So that a logarithm can be taken.
_LEAST = 1e-4
_ALL = "all/lora"
#: Rows that train a head, or one layer more.
_LITTLE = ("head", "budget")
#: Of intervals of 95 %.
_QUANTILE = 1.959964

#: Of each fold, float64 ``[n, C]``.
Scores = list[np.ndarray]


class Between(NamedTuple):
    """A difference with its interval of 95 %."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


class Predictions:
    """The kept predictions of a comparison by folds.

    Args:
        folder: of the comparison.
    """

    def __init__(self, folder: Path) -> None:
        self._found = read_comparison(saved_config(folder))
        self._counts = self._found.config.kind.counts
        self.folds = sorted(fold for fold in self._found.examples if fold is not None)
        self._truth = [self._found.examples[fold][self._found.split] for fold in self.folds]
        self.labels = list(self._truth[0].names)
        known = [np.asarray(truth.labels).sum(axis=0) for truth in self._truth]
        self.shares = np.sum(known, axis=0) / np.sum(known)
        self._cells = Cells(self._found)

    def of_baseline(self, name: str) -> Scores:
        """The scores of a baseline."""
        return [self._found.baselines[fold][name][self._found.split] / PARTS for fold in self.folds]

    def of_rows(self, rows: Sequence[str], seeds: Sequence[int] | None = None) -> Scores:
        """The mean scores of these rows: of these seeds, or of all that are complete."""
        wanted = {name: self.seeds_of(name) if seeds is None else seeds for name in rows}
        by_fold: dict[int, list[np.ndarray]] = {fold: [] for fold in self.folds}
        for result in self._found.results:
            name, fold = result.run.variant.name, result.run.fold
            if result.reason is None and fold in by_fold and result.run.seed in wanted.get(name, ()):
                by_fold[fold].append(result.statistics[self._found.split] / PARTS)
        return [np.mean(by_fold[fold], axis=0) for fold in self.folds]

    def of_each_seed(self, row: str) -> list[Scores]:
        """The scores of a row's complete seeds, each by itself."""
        return [self.of_rows([row], [seed]) for seed in self.seeds_of(row)]

    @property
    def seeds(self) -> int:
        """How many seeds each row is to have."""
        return self._found.config.seeds

    def seeds_of(self, name: str) -> list[int]:
        """The seeds of a row that have all folds which any row has."""
        runs = [each.run for each in self._found.results if each.reason is None and each.run.variant.name == name]
        has = {seed: {run.fold for run in runs if run.seed == seed} for seed in range(self.seeds)}
        return [seed for seed, folds in has.items() if folds >= set(self.folds)]

    def learned_rows(self) -> list[str]:
        """The usual rows that have all seeds, without those that train next to nothing."""
        rows = [each for each in self._found.config.variants if each.method.name not in _LITTLE and not each.own]
        return [each.name for each in rows if len(self.seeds_of(each.name)) == self.seeds]

    def plain_rows(self) -> list[Variant]:
        """The usual rows that have a seed."""
        return [each for each in self.all_rows() if not each.own]

    def all_rows(self) -> list[Variant]:
        """The rows that have a seed."""
        return [each for each in self._found.config.variants if self.seeds_of(each.name)]

    def rows_of_sizes(self) -> list[Variant]:
        """The rows that have a seed and differ from the usual ones in how much they train on."""
        return [each for each in self.all_rows() if {*each.own} == {"train_size"}]

    def rows_with_words(self) -> list[Variant]:
        """The rows that begin with the scores of the words, or whose answers are blends, and that have a seed."""
        return [each for each in self.all_rows() if {*each.own} in ({"offset"}, {"blend"})]

    def quality(self, scores: Scores, folds: Sequence[int] | None = None) -> float:
        """The tested quality over some of the folds, by their places; without ``folds`` over all."""
        places = range(len(self.folds)) if folds is None else folds
        sums = sum(self._counted(scores[place], place).sum(axis=0) for place in places)
        return float(self._counts.quality(np.asarray(sums)))

    def chosen(self, make: Callable[[float], Scores]) -> Scores:
        """For each fold, the scores with the number that does best on the other folds."""
        made = {weight: make(weight) for weight in _WEIGHTS}
        found = []
        for place in range(len(self.folds)):
            others = [other for other in range(len(self.folds)) if other != place]
            best = max(_WEIGHTS, key=lambda weight: self.quality(made[weight], others))
            found.append(made[best][place])
        return found

    def beside(self, scores: Scores, reference: Scores) -> tuple[Between, Between]:
        """Macro-F1 and accuracy minus those of the reference, with intervals of 95 % over documents."""
        return self.mean_beside([scores], reference)

    def mean_beside(self, several: Sequence[Scores], reference: Scores) -> tuple[Between, Between]:
        """The same of the mean over several runs of one row, with intervals over documents and runs."""

        def parts(runs: Sequence[Scores]) -> dict[tuple[int, int | None], np.ndarray]:
            return {
                (seed, fold): in_parts(each)
                for seed, scores in enumerate(runs)
                for fold, each in zip(self.folds, scores, strict=True)
            }

        paired = self._cells.paired(parts(several), parts([reference] * len(several)))
        assert paired is not None
        return _difference(paired, self._counts.quality), _difference(paired, _accuracy)

    def facts(self, scores: Scores) -> tuple[float, float, float]:
        """Macro-F1, accuracy, and the F1 of the rarest label."""
        sums = sum(self._counted(each, place).sum(axis=0) for place, each in enumerate(scores))
        right, true, predicted = np.asarray(sums).reshape(3, -1)
        rare = int(np.argmin(true))
        f1 = float(2 * right[rare] / max(true[rare] + predicted[rare], 1e-12))
        return float(self._counts.quality(np.asarray(sums))), float(_accuracy(np.asarray(sums))), f1

    def pooled(self, scores: Scores) -> dict[str, float]:
        """The qualities over all folds."""
        return self._counts.pooled(np.concatenate([in_parts(each) for each in scores]), Truth.joined(self._truth))

    def _counted(self, scores: np.ndarray, place: int) -> np.ndarray:
        return self._counts.counts(in_parts(scores), self._truth[place])


def _accuracy(sums: np.ndarray) -> np.ndarray:
    right, true, _ = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    found: np.ndarray = right.sum(axis=-1) / np.maximum(true.sum(axis=-1), 1)
    return found


def _difference(paired: Paired, quality: Quality) -> Between:
    effect = Effect.of(paired, quality)
    width = effect.variance.width(_QUANTILE)
    return Between(effect.mean, effect.mean - width, effect.mean + width)


def blend(ours: np.ndarray, theirs: np.ndarray, weight: float) -> np.ndarray:
    """The answers of ``intent --blend W``, probabilities ``[n, C]``, of those of a model and of the text regression."""
    logged = [np.log(np.maximum(each, _LEAST)) for each in (ours, theirs)]
    found: np.ndarray = softmax(weight * logged[0] + (1 - weight) * logged[1], axis=1)
    return found


def fixed_blend(kept: Predictions, row: str = _ALL, seeds: Sequence[int] | None = None) -> Scores:
    """What ``intent --blend 0.3`` answers with the models of a row, of these or of all seeds together."""
    parts = zip(kept.of_rows([row], seeds), kept.of_baseline(PARTNER), strict=True)
    return [blend(ours, theirs, _BLEND) for ours, theirs in parts]


def attempts_table(folder: Path) -> str:
    """The table in Markdown, of a comparison by folds."""
    kept = Predictions(folder)
    regression, partner, trained = kept.of_baseline(REGRESSION), kept.of_baseline(PARTNER), kept.of_rows([_ALL])
    several = kept.learned_rows()
    many = kept.of_rows(several)
    logged = [np.log(np.maximum(each, _LEAST)) for each in trained]

    def adjusted(strength: float) -> Scores:
        return [softmax(each - strength * np.log(kept.shares), axis=1) for each in logged]

    def blended(with_what: Scores) -> Callable[[float], Scores]:
        return lambda weight: [
            weight * ours + (1 - weight) * theirs for ours, theirs in zip(with_what, regression, strict=True)
        ]

    seeds = plural(kept.seeds, "seed")
    one, all_ = f"`all`, {seeds}", f"{len(several)} rows, {seeds}"
    rows = {
        REGRESSION: regression,
        PARTNER: partner,
        one: trained,
        all_: many,
        f"{one}, logits adjusted by the label shares": kept.chosen(adjusted),
        f"{one}, blended with the logistic regression": kept.chosen(blended(trained)),
        f"{one}, `--blend {_BLEND}`": fixed_blend(kept),
        f"{all_}, blended with the logistic regression": kept.chosen(blended(many)),
    }
    single = {name: [scores] for name, scores in rows.items()} | {
        f"`{each.short}`, {_mean_of(len(kept.seeds_of(each.name)))}": kept.of_each_seed(each.name)
        for each in kept.rows_with_words()
    }
    heads = (
        "attempt",
        "macro-F1",
        "accuracy",
        "F1 of the rarest",
        "macro-F1 beside the first row",
        "accuracy beside it",
    )
    lines, others = [], []
    for name, runs in single.items():
        facts = [f"{value:.3f}" for value in np.mean([kept.facts(scores) for scores in runs], axis=0)]
        beside = ("", "") if name == REGRESSION else map(str, kept.mean_beside(runs, regression))
        lines.append([name, *facts, *beside])
        if name != PARTNER:
            others.append([name, *map(str, kept.mean_beside(runs, partner))])
    beside_partner = table(("attempt", f"macro-F1 beside the {PARTNER}", "accuracy beside it"), others)
    return f"{table(heads, lines)}\n{beside_partner}"


def _mean_of(seeds: int) -> str:
    return f"mean of {seeds} seeds" if seeds > 1 else plural(seeds, "seed")


def blends_table(folder: Path) -> str:
    """The rows of a comparison by folds beside ``all``, by themselves and with the words in their answers."""
    kept = Predictions(folder)
    lines = []
    for row in kept.plain_rows():
        seeds = kept.seeds_of(row.name)  # a row of one seed is not compared with several runs of another, put together
        alone, blended = kept.of_rows([_ALL], seeds), fixed_blend(kept, _ALL, seeds)
        own, with_words = kept.of_rows([row.name]), fixed_blend(kept, row.name)
        by_itself, both = kept.beside(own, alone), kept.beside(with_words, blended)
        values = [f"{kept.facts(own)[0]:.3f}", str(by_itself[0]), f"{kept.facts(with_words)[0]:.3f}", *map(str, both)]
        if row.name == _ALL:
            values[1] = values[3] = values[4] = ""
        lines.append([f"`{row.short}`", *values])
    heads = (
        "row",
        "macro-F1 alone",
        "beside `all`",
        f"macro-F1, `--blend {_BLEND}`",
        "beside `all`, blended",
        "accuracy beside it",
    )
    return table(heads, lines)


def beside_table(folder: Path) -> str:
    """The rows of a comparison by folds, whether or not an example has several labels, beside both regressions."""
    kept = Predictions(folder)
    regressions = {name: kept.of_baseline(name) for name in (REGRESSION, PARTNER)}
    rows = {name: [scores] for name, scores in regressions.items()}
    rows |= {f"`{each.short}`": kept.of_each_seed(each.name) for each in kept.all_rows()}
    lines = []
    for name, runs in rows.items():
        found = [kept.pooled(scores) for scores in runs]
        qualities = [f"{np.mean([each[key] for each in found]):.3f}" for key in ("macro_f1", "accuracy", "macro_auprc")]
        beside = [
            "" if name == other else str(kept.mean_beside(runs, scores)[0]) for other, scores in regressions.items()
        ]
        lines.append([name, *qualities, *beside])
    heads = (
        "row",
        "macro-F1",
        "exact answers",
        "macro AUPRC",
        *(f"macro-F1 beside the {name}" for name in regressions),
    )
    return table(heads, lines)
