"""From which probability on to answer each of several labels: what other rules come to.

python -m tools.thresholds argrewrite:argrewrite --out docs/measurements/thresholds.json

The answers are blends as ``intent`` has them, with a regression in the place of the model, which makes it a matter of a
minute: logistic regression on the same features, with the class weights that a model is trained with. Five folds by
document are dealt in three ways, none of them that of the reported comparisons. Each rule is given the validation split
of each fold.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from layerselect.data import load_corpus
from layerselect.tasks.intent.blending import best_thresholds, expected_f1
from layerselect.tasks.intent.config import IntentConfig
from layerselect.tasks.intent.dataset import make_targets
from layerselect.tasks.intent.training import class_weights
from layerselect.tasks.run.baselines import TextRegression, WordBaseline
from layerselect.tasks.run.word_features import describe
from layerselect.utils import markdown
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

FOLDS, SEEDS, MODEL = 5, (1, 2, 3), 0.6
_SPLITS = ("train", "validation", "test")
#: No probability is nearer to 0 or 1.
_LEAST = 1e-4

#: From probabilities and targets of the validation split, ``[n, C]``, and the labels' shares of the training split.
Rule = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def between(values: np.ndarray) -> np.ndarray:
    """What lies between two neighbours of these values, or beside the outer ones."""
    known = np.sort(values)
    return np.concatenate([[known[0] / 2], (known[1:] + known[:-1]) / 2, [(known[-1] + 1) / 2]])


def best_found(found: np.ndarray, targets: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The threshold of each label with the greatest F1 on the validation split, of equal ones the nearest to 0.5."""

    def best(p: np.ndarray, true: np.ndarray) -> float:
        def quality(threshold: float) -> tuple[float, float]:
            return f1_score(true, p >= threshold, zero_division=0), -abs(threshold - 0.5)

        return max(between(p).tolist(), key=quality)

    return np.array([best(*columns) for columns in zip(found.T, targets.T, strict=True)])


def one_for_all(found: np.ndarray, targets: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """One threshold with the greatest macro-F1 on the validation split."""
    grid = np.linspace(0.05, 0.95, 91)
    best = max(grid, key=lambda each: f1_score(targets, found >= each, average="macro", zero_division=0))
    return np.full(found.shape[1], best)


def as_often(found: np.ndarray, targets: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Each label is answered as often, on the validation split, as the training split has it."""
    places = np.clip(np.rint(shares * len(found)).astype(int), 1, len(found) - 1)
    falling = -np.sort(-found, axis=0)
    columns = np.arange(found.shape[1])
    return (falling[places - 1, columns] + falling[places, columns]) / 2


def expected(found: np.ndarray, targets: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The best expected F1, however often that answers the label: half of its value."""
    return expected_f1(-np.sort(-found, axis=0)).max(axis=0) / 2


RULES: dict[str, Rule] = {
    "0.5 for all": lambda found, targets, shares: np.full(found.shape[1], 0.5),
    "best F1 on the validation split": best_found,
    "one for all, by macro-F1 on it": one_for_all,
    "as often as in training": as_often,
    "best expected F1": expected,
    "best expected F1, at most 1.5 times as often as in training (`intent`)": lambda found, targets, shares: (
        best_thresholds(logit(found), shares)
    ),
}


def fitted_stand_in(features: Any, targets: np.ndarray) -> Callable[[Any], np.ndarray]:
    """A regression for each label, which gives the probabilities ``[n, C]`` of other features."""
    weights = class_weights(IntentConfig.class_weights, targets.sum(axis=0), len(targets), multi_label=True)
    assert weights is not None
    models = [
        LogisticRegression(max_iter=3000, class_weight={0: 1.0, 1: weight}).fit(features, column)
        for weight, column in zip(weights.tolist(), targets.T, strict=True)
    ]
    return lambda others: np.stack([model.predict_proba(others)[:, 1] for model in models], axis=1)


def fold_answers(data: str, fold: int, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The true labels of the tested fold, 0/1 ``[n, C]``, and what each row answers there."""
    corpus = load_corpus(data, fold=f"{fold}/{FOLDS}", seed=seed)
    if not corpus.multi_label:
        raise SystemExit(f"{data} has one label for each revision: thresholds are for several")
    rows = {name: list(corpus.splits[name]) for name in _SPLITS}
    known = {name: describe(each) for name, each in rows.items()}
    targets = {name: make_targets(each, corpus.labels, True) for name, each in rows.items()}
    fitted = [
        kind(known["train"], targets["train"], len(corpus.labels), multi_label=True)
        for kind in (WordBaseline, TextRegression)
    ]
    answers = {each.name: each.predict(known["test"])[1] for each in fitted}
    text = fitted[1]
    stand_in = fitted_stand_in(text.features.matrix(known["train"]), targets["train"])

    def blended(name: str) -> np.ndarray:
        parts = (stand_in(text.features.matrix(known[name])), text.predict(known[name])[0])
        ours, theirs = (logit(np.clip(part, _LEAST, 1 - _LEAST)) for part in parts)
        mean: np.ndarray = expit(MODEL * ours + (1 - MODEL) * theirs)
        return mean

    found = {name: blended(name) for name in ("validation", "test")}
    for rule, thresholds in RULES.items():
        answers[rule] = found["test"] >= thresholds(
            found["validation"], targets["validation"], targets["train"].mean(axis=0)
        )
    return targets["test"], answers


def measure(data: str) -> dict[str, Any]:
    """Macro-F1, micro-F1 and the share of exact answers, over all folds together: one of each for each way of dealing
    them.
    """
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in SEEDS:
        folds = [fold_answers(data, fold + 1, seed) for fold in range(FOLDS)]
        true = np.concatenate([targets for targets, _ in folds])
        for name in folds[0][1]:
            answered = np.concatenate([answers[name] for _, answers in folds]).astype(true.dtype)
            quality = {
                "macro_f1": f1_score(true, answered, average="macro", zero_division=0),
                "micro_f1": f1_score(true, answered, average="micro"),
                "accuracy": float((true == answered).all(axis=1).mean()),
            }
            rows.setdefault(name, []).append({key: round(float(value), 4) for key, value in quality.items()})
    return {"data": data.partition(":")[0], "folds": FOLDS, "split_seeds": SEEDS, "model": MODEL, "rows": rows}


def thresholds_table(path: Path) -> str:
    """The table of what was measured: means over the ways of dealing folds, and the least and the greatest macro-F1."""
    found = json.loads(path.read_text(encoding="utf-8"))["rows"]
    heads = ("answers", "macro-F1", "least to greatest", "micro-F1", "exact answers")
    rows = []
    for name, several in found.items():
        macro, micro, exact = ([each[key] for each in several] for key in ("macro_f1", "micro_f1", "accuracy"))
        means = [f"{np.mean(values):.3f}" for values in (macro, micro, exact)]
        rows.append((name, means[0], f"{min(macro):.3f} to {max(macro):.3f}", *means[1:]))
    return markdown.table(heads, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a corpus with several labels, as --data of the commands has it")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    args = parser.parse_args()
    with warnings.catch_warnings():  # a label that a training split lacks, and where regressions have not converged
        warnings.simplefilter("ignore")
        found = measure(args.data)
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
