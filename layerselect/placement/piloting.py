"""A pilot: short trainings that tell which is the cheapest placement that is as good as training every layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import LayerSelectError
from ..utils.paired import Quality
from .candidates import ALL, Candidate, distinct, keeps_to, within
from .placement import Placement
from .race import WORSE, Race, Standing, Trial
from .rounds import ERROR, Rounds

#: One short training: of a candidate, with a seed, in a fold (both from 0), and what it came to.
Train = Callable[[Candidate, int, int], Trial]
#: Told of what has happened: ``("trained", record)`` and ``("round", record)``.
OnEvent = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Answer:
    """What a pilot says.

    Attributes:
        chosen: the name of the placement to train with.
        sure: it was shown to be as good as training every layer, within the margin.
        why: one sentence, for a reader.
        cheapest_open: the cheapest candidate that was not shown to be worse; ``None``: all were.
        more: to show it would probably take so many times the trainings of this pilot; ``None`` where it is shown, or
            where more seeds on these documents would not do.
    """

    chosen: str
    sure: bool
    why: str
    cheapest_open: str | None
    more: float | None


@dataclass(frozen=True)
class PilotResult:
    """A finished pilot.

    Attributes:
        answer: what it says.
        standings: of each candidate, the cheapest first.
        reference: what trains every layer.
        reference_quality: its mean quality in the short trainings; NaN before the first round.
        margin: within which a candidate is as good.
        rounds: how the race was divided, and ``done``, how many of them were needed.
        cost: what the trainings took, as a fraction of one full training of all layers.
    """

    answer: Answer
    standings: list[Standing]
    reference: Candidate
    reference_quality: float
    margin: float
    rounds: Rounds
    done: int
    cost: float

    @property
    def candidates(self) -> list[Candidate]:
        """All, the reference last."""
        return [*(each.candidate for each in self.standings), self.reference]

    def front(self) -> list[str]:
        """Those than which no cheaper one looks as good, the cheapest first."""
        found: list[Standing] = []
        for standing in self.standings:
            if standing.looks and all(standing.mean > other.mean for other in found):
                found.append(standing)
        last = [self.reference.name] if all(each.mean < 0 for each in found) else []
        return [*(each.candidate.name for each in found), *last]

    def placement(self, names: Sequence[str]) -> Placement:
        """The chosen placement, to be saved and trained with.

        Args:
            names: of all layers of the model, in forward order.
        """
        chosen = next(each for each in self.candidates if each.name == self.answer.chosen)
        return Placement(
            list(chosen.layers),
            cost=min(1.0, chosen.cost),
            names=list(names),
            chosen_by=f"layerselect pilot: {chosen.name}",
            doubt="" if self.answer.sure else self.answer.why,
        )

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        quality = None if math.isnan(self.reference_quality) else self.reference_quality
        return {
            "answer": asdict(self.answer),
            "reference": {"name": self.reference.name, "quality": quality},
            "margin": self.margin,
            "error": ERROR,
            "rounds": {**asdict(self.rounds), "planned": len(self.rounds), "done": self.done},
            "cost": self.cost,
            "front": self.front(),
            "candidates": [
                {
                    **asdict(each.candidate),
                    "layers": list(each.candidate.layers),
                    "state": each.state,
                    "left": each.left,
                    "looks": [
                        {name: getattr(look, name) for name in ("round", "mean", "low", "high", "quality", "chance")}
                        for look in each.looks
                    ],
                }
                for each in self.standings
            ],
        }


def mean_of_counts(sums: np.ndarray) -> np.ndarray:
    """The quality of counts that are a sum of values and how many these are: their mean. ``[..., 2]`` to ``[...]``."""
    found: np.ndarray = sums[..., 0] / np.maximum(sums[..., 1], 1e-12)
    return found


def pilot(
    candidates: Sequence[Candidate],
    train: Train,
    *,
    margin: float = 0.02,
    max_cost: float = 0.1,
    budget: float | None = None,
    rounds: Rounds | None = None,
    quality: Quality = mean_of_counts,
    idle: Candidate | None = None,
    on_event: OnEvent | None = None,
) -> PilotResult:
    """Finds out by short trainings which candidate is the cheapest that is as good as training every layer.

    ::

        names = ["all", "head", "upper:4", "upper:8"]
        def train(candidate, seed, fold):
            ...  # train candidate.layers for a few steps, and evaluate on the documents of the fold
            return Trial(documents, np.stack([right, answered], axis=1))
        result = pilot(candidates, train, margin=0.02)
        result.placement(selector.layer_names).save("placement.json")

    Args:
        candidates: one of them has the name ``all`` and is the reference. Of several with the same layers the first
            counts. Each says what a trial of it costs.
        train: one short training. Called with the same seed and fold it must use the same batches and the same held-out
            documents, whatever the candidate.
        margin: of the quality, at most so much worse is as good.
        max_cost: of all trainings together, as a fraction of one full training of all layers.
        budget: only candidates whose step costs at most so much are tried and chosen, ``all`` then being no more than
            what they are measured against. Where none of them looks as good, the answer is the one that stands best,
            and where the trainings taught nothing, the one whose step costs the most.
        rounds: how the race is divided; see :class:`~layerselect.placement.rounds.Rounds`.
        quality: of the summed counts of a trial's documents. Without one these are a sum and a number, of which the
            mean is meant.
        idle: something that has learned nothing, tested by ``train`` as well; see
            :class:`~layerselect.placement.race.Race`.
        on_event: told of every training and every round.

    Raises:
        LayerSelectError: no reference, no candidate within the budget, or the trainings would cost more than
            ``max_cost``.
    """
    notify = on_event or (lambda kind, record: None)
    rounds = rounds or Rounds()
    known = within(distinct(candidates), budget)
    reference = next((each for each in known if each.name == ALL), None)
    if reference is None:
        raise LayerSelectError(f"no candidate has the name {ALL!r}: add the one that trains every layer")
    others = [each for each in known if each is not reference]
    if budget is not None and not others:
        raise LayerSelectError(
            f"no candidate beside {ALL!r} has a step that costs at most {budget:g}: add a cheaper one"
        )
    most = planned_cost(known, rounds)
    if most > max_cost * (1 + 1e-9):
        raise LayerSelectError(
            f"the pilot may cost up to {most:.2g} of a full training and not {max_cost:g}: allow more, or give it "
            "fewer candidates, rounds or steps"
        )
    entered = others if idle is None else [*others, idle]
    race = Race(
        entered,
        reference,
        quality=quality,
        margin=margin,
        rounds=rounds,
        idle=None if idle is None else idle.name,
    )
    by_name = {each.name: each for each in (*entered, reference)}
    cost = 0.0
    while (parts := race.next_parts()) is not None:
        found: dict[str, list[Trial]] = {name: [] for name in race.to_train()}
        for part in parts:
            # Candidates with the same seed one after the other, so that they read what the first one has cached.
            for name in found:
                found[name].append(train(by_name[name], *part))
                cost += by_name[name].trial
                is_idle = idle is not None and name == idle.name
                notify("trained", {"candidate": name, "idle": is_idle, "cost": cost})
        race.add(found)
        notify("round", {"race": race, "cost": cost})
    return PilotResult(
        _answer(race, budget),
        [each for name, each in race.standings.items() if idle is None or name != idle.name],
        reference,
        race.reference_qualities[-1] if race.reference_qualities else math.nan,
        margin,
        rounds,
        race.done,
        cost,
    )


def planned_cost(candidates: Sequence[Candidate], rounds: Rounds) -> float:
    """What the trainings cost if no candidate leaves, as a fraction of one full training of all layers."""
    return rounds.trials * math.fsum(each.trial for each in candidates)


def _answer(race: Race, budget: float | None) -> Answer:
    shown, likely, open_ = race.cheapest_as_good(), race.likeliest(), race.cheapest_open()
    cheapest_open = open_.candidate.name if open_ else None
    if not race.taught():
        why = (
            "the short trainings taught even the reference too little to tell candidates apart: give more steps, or "
            "allow more cost"
        )
        return _otherwise(race, budget, False, why, cheapest_open, known=False)
    margin = f"{race.margin:g}"
    if shown is not None:
        return Answer(shown.candidate.name, True, _sure(race, shown, margin), cheapest_open, None)
    if likely is None:
        all_ = all(each.state == WORSE for each in race.standings.values() if each.looks)
        why = (
            f"every candidate was shown to be worse than training all layers by more than {margin}"
            if all_
            else f"no candidate looks as good as training all layers within {margin}, though not all were shown to be "
            "worse"
        )
        return _otherwise(race, budget, all_, why, cheapest_open)
    more = race.more_for(likely)
    how = (
        "more seeds on these documents would not settle it"
        if more is None
        else f"about {max(2, math.ceil(more))} times the trainings would probably settle it"
    )
    look = likely.looks[-1]
    why = (
        f"undecided: {likely.candidate.name} looks as good as training all layers within {margin} ({look.mean:+.3f}, "
        f"{look.low:+.3f} to {look.high:+.3f}), but that is not shown; {how}"
    )
    return Answer(likely.candidate.name, False, why, cheapest_open, more)


def _otherwise(
    race: Race, budget: float | None, sure: bool, why: str, cheapest_open: str | None, *, known: bool = True
) -> Answer:
    """What to train where no candidate looks as good: every layer or, if a budget forbids that, what stands best.
    Where nothing is known of any of them, what costs the most.
    """
    if keeps_to(race.reference.cost, budget):
        return Answer(race.reference.name, sure, why, cheapest_open, None)
    best = race.best() if known else race.dearest()
    look = best.looks[-1]
    stands = f"stands best ({look.mean:+.3f}, {look.low:+.3f} to {look.high:+.3f})" if known else "trains the most"
    why = f"{why}; within the budget of {budget:g}, {best.candidate.name} {stands}"
    return Answer(best.candidate.name, False, why, cheapest_open, None)


def _sure(race: Race, shown: Standing, margin: str) -> str:
    look = shown.looks[-1]
    why = (
        f"{shown.candidate.name} is as good as training all layers within {margin} ({look.mean:+.3f}, at least "
        f"{look.low:+.3f}), in the short trainings of this pilot"
    )
    undecided = [name for name in race.running() if race.standings[name].candidate.cost < shown.candidate.cost]
    return f"{why}; cheaper, and not decided: {', '.join(undecided)}" if undecided else why
