"""What can be made of a comparison's kept predictions beside its baseline, the logistic regression on changed words.

Every attempt is tested under the comparison's folds. What is chosen (a weight, a strength) is chosen for each fold on
the other folds' rows, by predictions of models that had not seen these rows. Differences are paired by document; where
an attempt puts several runs together there is one of it, so the interval is over documents alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from layerselect.report.numbers import plural
from layerselect.tasks.run.baselines import TextRegression, WordBaseline
from layerselect.utils.markdown import table
from scipy.special import softmax
from tools.kept_predictions import Predictions, Scores

REGRESSION = WordBaseline.name
#: What has a part in blends.
PARTNER = TextRegression.name
#: Of the model's log-probabilities, as ``intent --blend`` has it.
_BLEND = 0.3
#: So that a logarithm can be taken.
_LEAST = 1e-4
_ALL = "all/lora"


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
    """The rows of a comparison by folds, whether or not an example has several labels, beside both regressions and the
    first row, of which there is one seed.
    """
    kept = Predictions(folder)
    others = {name: kept.of_baseline(name) for name in (REGRESSION, PARTNER)}
    rows = {name: [scores] for name, scores in others.items()}
    rows |= {f"`{each.short}`": kept.of_each_seed(each.name) for each in kept.all_rows()}
    first = next(name for name in rows if name not in others)
    (others[first],) = rows[first]
    lines = []
    for name, runs in rows.items():
        found = [kept.pooled(scores) for scores in runs]
        qualities = [f"{np.mean([each[key] for each in found]):.3f}" for key in ("macro_f1", "accuracy", "macro_auprc")]
        beside = ["" if name == other else str(kept.mean_beside(runs, scores)[0]) for other, scores in others.items()]
        lines.append([name, *qualities, *beside])
    heads = (
        "row",
        "macro-F1",
        "exact answers",
        "macro AUPRC",
        *(f"macro-F1 beside {name if name == first else f'the {name}'}" for name in others),
    )
    return table(heads, lines)
