"""Whether the verdicts of comparisons are as often right as they say: simulated predictors with known differences.

    python -m tools.simulate_verdicts --simulations 1000 --out docs/measurements/verdicts.json

A simulated corpus has the five intentions of IteraTeR in their proportions and documents of very different lengths. A
predictor is right about an example where a latent number is above a threshold: the number has a part of the example, of
its document, of the row, of the seed on this example, and of the whole run. Their sizes are such that seeds and rows
disagree on as many examples, and whole runs differ by as much, as was measured (``_PARTS``). The true macro-F1 of a row
follows from its threshold by the normal distribution, so that a row of any true difference can be made.

Each simulated comparison has three rows as good as the reference, one that is worse by half of the margin, one that is
worse by a little more than the margin, and one that is better by what the comparison promised to tell. A verdict is
wrong if it says better or worse of a row that is not, or as good of a row beyond the margin.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from layerselect.tasks.compare.counts import IntentCounts
from layerselect.tasks.compare.power import Power, Shape, power_of
from layerselect.tasks.compare.verdicts import AS_GOOD, BETTER, UNDECIDED, WORSE, differences
from layerselect.utils.paired import Paired, Variance

logger = logging.getLogger(__name__)

_SHARES = np.array([0.393, 0.099, 0.237, 0.239, 0.032])
#: Thresholds of the five intentions: the last one is hardly ever found.
_EASE = np.array([0.55, 0.1, 0.35, 0.55, -1.2])
#: Standard deviations of the parts of the latent number, besides that of whole runs.
_PARTS = {"example": 0.9, "document": 0.36, "row": 0.12, "chance": 0.2}
_SENTENCES = 9  # of a document, on average
_QUALITY = IntentCounts().quality


@dataclass(frozen=True)
class Setting:
    """One kind of comparison.

    Attributes:
        documents, folds, seeds: as large.
        runs: the standard deviation of whole runs in the latent number; 0.02 moves macro-F1 by 0.006.
        margin: within which two rows are as good.
    """

    documents: int
    folds: int
    seeds: int
    runs: float
    margin: float = 0.02


SETTINGS = (
    Setting(331, 5, 2, 0.02),
    Setting(331, 5, 2, 0.04),
    Setting(331, 1, 3, 0.02),
    Setting(80, 5, 2, 0.02),
    # The spread of runs that the first table by folds showed, docs/measurements/iterater-minilm.
    Setting(406, 5, 2, 0.053),
    Setting(406, 5, 5, 0.053),
)


def macro_f1(skill: float, runs: float) -> float:
    """The macro-F1 of a row on all texts there could be."""
    spread = np.sqrt(sum(part**2 for part in _PARTS.values()) + runs**2)
    right = np.array([NormalDist().cdf((ease + skill) / spread) for ease in _EASE])
    wrong = _SHARES * (1 - right)
    predicted = _SHARES * right + (wrong.sum() - wrong) / (len(_SHARES) - 1)
    return float(np.mean(2 * _SHARES * right / (_SHARES + predicted)))


def skill_for(difference: float, runs: float) -> float:
    """By how much the thresholds of a row are to be lower for its macro-F1 to be higher by ``difference``."""
    low, high, goal = -3.0, 3.0, macro_f1(0.0, runs) + difference
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if macro_f1(middle, runs) < goal else (low, middle)
    return (low + high) / 2


def simulated(
    random: np.random.Generator, setting: Setting, skills: list[float]
) -> tuple[list[np.ndarray], np.ndarray]:
    """For each row the counts ``[S, D, m]`` of its runs, and the fold of each document."""
    sizes = random.geometric(1 / _SENTENCES, size=setting.documents)
    count, labels = int(sizes.sum()), len(_SHARES)
    truth = random.choice(labels, p=_SHARES, size=count)
    document = np.repeat(np.arange(setting.documents), sizes)
    fold = random.permutation(np.arange(setting.documents) % setting.folds)
    wrong = (truth + random.integers(1, labels, size=count)) % labels
    latent = _EASE[truth] + _PARTS["example"] * random.normal(size=count)
    latent += _PARTS["document"] * random.normal(size=setting.documents)[document]
    rows = []
    for skill in skills:
        own = latent + skill + _PARTS["row"] * random.normal(size=count)
        counts = []
        for _ in range(setting.seeds):
            run = setting.runs * random.normal(size=setting.folds)[fold][document]
            right = own + run + _PARTS["chance"] * random.normal(size=count) > 0
            predicted = np.where(right, truth, wrong)
            cells = [
                np.bincount(document * labels + label, weights=weight, minlength=setting.documents * labels)
                for label, weight in ((truth, right), (truth, None), (predicted, None))
            ]
            counts.append(np.stack(cells, axis=-1).reshape(setting.documents, labels, 3).swapaxes(1, 2))
        rows.append(np.stack(counts).reshape(setting.seeds, setting.documents, -1).astype(np.float64))
    return rows, fold


def promised(setting: Setting, rows: int, simulations: int, difference: float = 0.0) -> Power:
    """What a comparison promises whose rows differ by ``difference``, from the mean variance of such differences."""
    skills, found = [skill_for(difference, setting.runs), 0.0], []
    for number in range(simulations):
        counts, fold = simulated(np.random.default_rng((number, 1)), setting, skills)
        found.append(_compared(counts, fold, 1, number)["0"].variance)
    parts = np.mean([(each.documents, each.chance, each.between) for each in found], axis=0).tolist()
    mean = Variance(*parts, setting.documents, setting.seeds, setting.folds)
    shape = Shape(setting.documents, setting.seeds, setting.folds, rows, setting.margin)
    return power_of(mean, shape, measured=True)


def of_runs(runs: float) -> float:
    """By how much one standard deviation of whole runs moves macro-F1."""
    return abs(macro_f1(runs, 0.0) - macro_f1(-runs, 0.0)) / 2


def _compared(counts: list[np.ndarray], fold: np.ndarray, samples: int, seed: int) -> dict[str, Any]:
    *rows, reference = counts
    paired = {str(number): Paired(row, reference, np.arange(len(fold)), fold) for number, row in enumerate(rows)}
    return differences(paired, _QUALITY, samples=samples, seed=seed)


def run(setting: Setting, simulations: int, samples: int) -> dict[str, Any]:
    """Simulates comparisons of one kind and counts their verdicts."""
    margin = setting.margin
    # Rows that differ disagree on more examples, so what a real difference needs is seen in rows that have one.
    equal = promised(setting, 6, min(simulations, 100))
    told = promised(setting, 6, min(simulations, 100), equal.difference).difference
    true = [0.0, 0.0, 0.0, -margin / 2, -1.1 * margin, told]
    skills = [skill_for(difference, setting.runs) for difference in (*true, 0.0)]
    verdicts: list[Counter[str]] = [Counter() for _ in true]
    wrong, outside = 0, 0
    for number in range(simulations):
        counts, fold = simulated(np.random.default_rng((number, 2)), setting, skills)
        found = _compared(counts, fold, samples, number)
        bad, missed = False, False
        for row, difference in enumerate(true):
            each = found[str(row)]
            verdict = each.verdict(margin)
            verdicts[row][verdict] += 1
            bad |= (verdict == BETTER and difference <= 0) or (verdict == WORSE and difference >= 0)
            bad |= verdict == AS_GOOD and abs(difference) > margin
            missed |= not each.low <= difference <= each.high
        wrong, outside = wrong + bad, outside + missed
    alike = sum((verdicts[row] for row in range(3)), Counter())
    return {
        **asdict(setting),
        "runs_in_macro_f1": of_runs(setting.runs),
        "simulations": simulations,
        "wrong": wrong / simulations,
        "interval_misses": outside / simulations,
        "undecided_at_0": alike[UNDECIDED] / (3 * simulations),
        "as_good_at_0": alike[AS_GOOD] / (3 * simulations),
        "as_good_promised": equal.equality,
        "told": told,
        "found_at_told": verdicts[5][BETTER] / simulations,
        "verdicts": [{"true": difference, **counts} for difference, counts in zip(true, verdicts, strict=True)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=500, help="of each bootstrap")
    parser.add_argument("--only", type=int, help="one of the settings, by its number from 0")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    results = []
    for setting in SETTINGS if args.only is None else SETTINGS[args.only : args.only + 1]:
        results.append(run(setting, args.simulations, args.samples))
        logger.info("%s", json.dumps(results[-1]))
    if args.out is not None:
        args.out.write_text(
            json.dumps({"samples": args.samples, "settings": results}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
