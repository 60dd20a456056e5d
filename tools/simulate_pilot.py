"""Whether a pilot's race is as often right as it says: simulated candidates with known differences.

    python -m tools.simulate_pilot --simulations 2000 --out docs/measurements/pilot-races.json

Predictors and documents are simulated as for comparisons (``tools.simulate_verdicts``): rows and seeds disagree on
as many examples as was measured, and whole trainings differ by as much as the setting says. A race has candidates at
six costs. A race is wrong if it says *as good* of any candidate that is worse by the margin or more, or *worse* of one
that is not. It is undecided if it shows no candidate to be as good.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from layerselect.placement.candidates import Candidate
from layerselect.placement.race import AS_GOOD, WORSE, Race, Standing, Trial
from layerselect.placement.rounds import Rounds
from layerselect.tasks.compare.counts import IntentCounts
from tools.simulate_verdicts import Setting, of_runs, simulated, skill_for

logger = logging.getLogger(__name__)

_QUALITY = IntentCounts().quality
_COSTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


@dataclass(frozen=True)
class Kind:
    """One kind of race.

    Attributes:
        name: what is true of its candidates.
        true: the difference of each from the reference, in margins; the cheapest first.
        documents, folds, seeds, more: as large.
        runs: see :class:`~tools.simulate_verdicts.Setting`.
        margin: in macro-F1.
    """

    name: str
    true: tuple[float, ...]
    documents: int
    folds: int
    seeds: int
    more: int
    runs: float
    margin: float = 0.02


_TRUE = {
    "all as good": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "all at the margin": (-1.0, -1.0, -1.0, -1.0, -1.0, -1.0),
    "the cheaper, the worse": (-4.0, -2.0, -1.1, -0.5, 0.0, 0.0),
}
#: Documents, folds, seeds, more rounds, spread of runs, margin.
_SIZES = (
    (331, 5, 2, 0, 0.02, 0.02),
    (331, 5, 2, 2, 0.02, 0.02),
    (406, 5, 2, 3, 0.053, 0.02),
    (406, 5, 2, 3, 0.053, 0.03),
    (1500, 5, 2, 2, 0.053, 0.02),
)
KINDS = tuple(Kind(name, true, *size) for size in _SIZES for name, true in _TRUE.items())


def race_of(kind: Kind, skills: list[float], random: np.random.Generator) -> Race:
    """A whole race, among candidates with these skills; that of the reference is the last."""
    setting = Setting(kind.documents, kind.folds, kind.seeds + kind.more, kind.runs, kind.margin)
    counts, fold = simulated(random, setting, skills)
    reference = Candidate("all", (0,), 1.0)
    names = [str(number) for number in range(len(skills) - 1)]
    candidates = [Candidate(name, (int(name) + 1,), cost) for name, cost in zip(names, _COSTS, strict=True)]
    rounds = Rounds(kind.folds, kind.seeds, kind.more)
    race = Race(candidates, reference, quality=_QUALITY, margin=kind.margin, rounds=rounds)
    rows = dict(zip([*names, "all"], counts, strict=True))
    held = [tuple(map(str, np.flatnonzero(fold == number))) for number in range(kind.folds)]
    while (parts := race.next_parts()) is not None:
        race.add({name: [Trial(held[f], rows[name][s][fold == f]) for s, f in parts] for name in race.to_train()})
    return race


def run(kind: Kind, simulations: int) -> dict[str, Any]:
    """Simulates races of one kind and counts what they said."""
    true = [each * kind.margin for each in kind.true]
    skills = [skill_for(difference, kind.runs) for difference in (*true, 0.0)]
    states: list[Counter[str]] = [Counter() for _ in true]
    chosen: Counter[str] = Counter()
    wrong = undecided = trained = 0.0
    for number in range(simulations):
        race = race_of(kind, skills, np.random.default_rng((number, 3)))
        for name, standing in race.standings.items():
            states[int(name)][standing.state] += 1
        wrong += any(_wrong(each, true[int(name)], kind.margin) for name, each in race.standings.items())
        found = race.cheapest_as_good()
        undecided += found is None
        chosen[found.candidate.name if found else "none"] += 1
        trained += sum(_trained(each, race) for each in race.standings.values()) / (len(true) * race.rounds.trials)
    return {
        **asdict(kind),
        "runs_in_macro_f1": of_runs(kind.runs),
        "simulations": simulations,
        "wrong": wrong / simulations,
        "undecided": undecided / simulations,
        "trained": trained / simulations,
        "chosen": dict(sorted(chosen.items())),
        "states": [dict(each) for each in states],
    }


def _wrong(standing: Standing, true: float, margin: float) -> bool:
    worse = true <= -margin
    return (standing.state == AS_GOOD and worse) or (standing.state == WORSE and not worse)


def _trained(standing: Standing, race: Race) -> int:
    """In how many trainings the candidate took part."""
    return sum(len(race.rounds.parts(number)) for number in range(standing.left or race.done))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--only", type=int, help="one of the kinds, by its number from 0")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    results = []
    for kind in KINDS if args.only is None else KINDS[args.only : args.only + 1]:
        results.append(run(kind, args.simulations))
        logger.info("%s", json.dumps(results[-1]))
    if args.out is not None:
        args.out.write_text(json.dumps({"races": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
