"""Which sets of layers are as good as all of them, found out by short trainings and looked at again and again.

Each candidate is trained with the same batches, seeds and held-out documents as the reference, so their difference is
paired (:mod:`layerselect.utils.paired`). After each round the race asks of every candidate that still runs on which
side of the margin it is:

* *as good*: the lower end of its interval is above ``-margin`` (a test of non-inferiority);
* *worse*: the upper end is below ``-margin``;
* *unlikely*: neither, but it stands badly and leaves, so that the cost goes where the decision is. Nothing is claimed.
* *not needed*: a cheaper candidate is as good.

Looking often makes wrong claims more frequent. Each look therefore spends a part of the allowed 5 %, by the squared
share of the trainings that the race may take in all (an alpha-spending function: Lan and DeMets, Biometrika 1983; the
parts add up by Bonferroni, so that nothing is assumed of how the looks depend on each other). In one look the ends of
all candidates hold together (Dunnett, JASA 1955), with Student's quantiles, since the spread of whole trainings is
known from few.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import LayerSelectError
from ..utils.paired import Effect, Paired, Quality, Variance, together
from .candidates import Candidate, cheaper_first
from .rounds import ERROR, Rounds

RUNNING, AS_GOOD, WORSE, UNLIKELY, NOT_NEEDED = "running", "as good", "worse", "unlikely", "not needed"

#: A candidate leaves where the chance that it is as good has fallen below, though that is not shown.
_UNLIKELY = 0.1
#: The chance is asked for from this round on.
_SETTLED = 2
#: So many more seeds are thought of at most.
_MOST_SEEDS = 64


@dataclass(frozen=True)
class Trial:
    """What one short training came to.

    Attributes:
        documents: of the held-out part, each once.
        counts: float64 ``[D, m]``; their sums over documents make the quality.
    """

    documents: tuple[str, ...]
    counts: np.ndarray


@dataclass(frozen=True)
class Look:
    """How a candidate stands beside the reference after a round.

    Attributes:
        round: from 1.
        mean: its quality less that of the reference.
        low, high: the ends that decide; each holds for all candidates and all looks of the race together with 95 %.
        quality: its own.
        chance: that it is as good within the margin, if nothing else is known.
        variance: where the width comes from.
    """

    round: int
    mean: float
    low: float
    high: float
    quality: float
    chance: float
    variance: Variance


@dataclass
class Standing:
    """A candidate in the race.

    Attributes:
        state: ``running``, ``as good``, ``worse``, ``unlikely`` or ``not needed``.
        left: the round (from 1) after which it left, or was found to be as good; ``None`` while it runs.
        looks: after each round that it took part in.
    """

    candidate: Candidate
    state: str = RUNNING
    left: int | None = None
    looks: list[Look] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """Its difference from the reference at the last look; NaN before the first."""
        return self.looks[-1].mean if self.looks else math.nan


class Race:
    """Candidates beside a reference, round by round.

    ::

        race = Race(candidates, reference, quality=quality, margin=0.02, rounds=Rounds())
        while (parts := race.next_parts()) is not None:
            race.add({name: [train(name, *part) for part in parts] for name in race.to_train()})

    Args:
        candidates: without the reference, each with other layers.
        reference: what trains every layer.
        quality: of summed counts.
        margin: a candidate is as good if its quality is at most so much below the reference's.
        rounds: how the race is divided.
        idle: the name of a candidate that has learned nothing (the most frequent class, for instance). As long as it
            is not shown to be worse than the reference by more than the margin, no other one is said to be as good:
            all of them would be.

    Raises:
        LayerSelectError: no candidate, two of one name, or a margin that is not positive.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        reference: Candidate,
        *,
        quality: Quality,
        margin: float,
        rounds: Rounds,
        idle: str | None = None,
    ) -> None:
        names = [each.name for each in (*candidates, reference)]
        if not candidates or len(set(names)) < len(names):
            raise LayerSelectError(f"the candidates {', '.join(names)}: give at least one, and each name once")
        if not margin > 0:
            raise LayerSelectError(f"margin={margin!r} is not above 0: no difference would ever be small enough")
        if idle is not None and idle not in names[:-1]:
            raise LayerSelectError(f"idle={idle!r} is none of the candidates")
        self.reference, self.margin, self.rounds, self.quality = reference, margin, rounds, quality
        self.standings = {each.name: Standing(each) for each in cheaper_first(candidates)}
        self.done = 0
        self.reference_qualities: list[float] = []
        self._idle = idle
        self._trials: dict[str, dict[tuple[int, int], Trial]] = {name: {} for name in names}
        self._numbers: dict[str, int] = {}

    def running(self) -> list[str]:
        """Those that are not decided, the cheapest first."""
        return [name for name, each in self.standings.items() if each.state == RUNNING]

    def to_train(self) -> list[str]:
        """What the next round trains: the reference, and what is not decided."""
        return [self.reference.name, *self.running()] if self.next_parts() is not None else []

    def next_parts(self) -> list[tuple[int, int]] | None:
        """Seed and fold of each training of the next round; ``None`` where the race is over: all is decided, or after
        two rounds the reference does not even look better than what has learned nothing.
        """
        open_ = [name for name in self.running() if name != self._idle]
        idle = self.standings[self._idle].looks if self._idle is not None else []
        if self.done >= _SETTLED and idle and idle[-1].chance > 0.5:
            return None
        return self.rounds.parts(self.done) if open_ and self.done < len(self.rounds) else None

    def add(self, trials: Mapping[str, Sequence[Trial]]) -> None:
        """Takes the trainings of a round, one for each of :meth:`next_parts`, and looks at the candidates.

        Raises:
            LayerSelectError: one is missing, or was tested on other documents than the reference's.
        """
        parts = self.next_parts()
        if parts is None:
            raise LayerSelectError("the race is over: nothing more is to be trained")
        names = self.to_train()
        for name in names:
            if len(trials.get(name, ())) != len(parts):
                raise LayerSelectError(f"{name} has {len(trials.get(name, ()))} trainings and not {len(parts)}")
            self._trials[name].update(zip(parts, trials[name], strict=True))
        for name in names:
            for part in parts:
                if self._trials[name][part].documents != self._trials[self.reference.name][part].documents:
                    raise LayerSelectError(f"{name} was tested on other documents than {self.reference.name}")
        self._look()
        self.done += 1

    def cheapest_as_good(self) -> Standing | None:
        """The cheapest candidate that was shown to be as good."""
        return next((each for each in self._asked() if each.state == AS_GOOD), None)

    def cheapest_open(self) -> Standing | None:
        """The cheapest candidate that was not shown to be worse."""
        return next((each for each in self._asked() if each.state != WORSE), None)

    def likeliest(self) -> Standing | None:
        """The cheapest candidate that looks as good, whether that is shown or not; ``None``: no one does."""
        fit = (each for each in self._asked() if each.state not in (WORSE, UNLIKELY) and each.mean >= -self.margin)
        return self.cheapest_as_good() or next(fit, None)

    def best(self) -> Standing:
        """The candidate that stands best, whatever was shown of it; there has been a round."""
        return max((each for each in self._asked() if each.looks), key=lambda each: (each.mean, each.candidate.cost))

    def dearest(self) -> Standing:
        """The candidate whose step costs the most."""
        return max(self._asked(), key=lambda each: (each.candidate.cost, len(each.candidate.layers)))

    def taught(self) -> bool:
        """Whether the reference has been shown to have learned something."""
        return self._idle is None or self.standings[self._idle].state == WORSE

    def more_for(self, standing: Standing) -> float | None:
        """How many times the trainings of this race would probably show that a candidate is as good, if it goes on as
        it stands; ``None`` where more seeds on these documents would not.
        """
        look = standing.looks[-1] if standing.looks else None
        if look is None or look.mean <= -self.margin:
            return None
        quantile = together(len(self.standings), 1 - 2 * ERROR)
        whole, seen = self._documents(), look.variance
        for seeds in range(seen.seeds, _MOST_SEEDS + 1):
            more = seen.with_more(whole, seeds, self.rounds.folds)
            # A half more than the interval's width: what is shown in about 80 % of such races.
            if look.mean + self.margin > more.width(quantile) + 0.85 * more.total**0.5:
                return seeds / (self.rounds.seeds + self.rounds.more)
        return None

    def _asked(self) -> list[Standing]:
        return [each for name, each in self.standings.items() if name != self._idle]

    def _look(self) -> None:
        quantile = together(len(self.standings), 1 - 2 * self.rounds.error(self.done))
        self.reference_qualities.append(self._quality_of(self.reference.name))
        looks = {name: self._look_at(name, quantile) for name in self.running()}
        for name, look in looks.items():
            standing = self.standings[name]
            standing.looks.append(look)
            if look.high < -self.margin:
                self._leave(standing, WORSE)
        if not self.taught():
            return
        for name, look in looks.items():
            standing = self.standings[name]
            if standing.state == RUNNING and look.low > -self.margin:
                self._leave(standing, AS_GOOD)
            elif standing.state == RUNNING and self.done + 1 >= _SETTLED and look.chance < _UNLIKELY:
                self._leave(standing, UNLIKELY)
        best = self.cheapest_as_good()
        for name in self.running():
            standing = self.standings[name]
            if best is not None and standing.candidate.cost >= best.candidate.cost:
                self._leave(standing, NOT_NEEDED)

    def _leave(self, standing: Standing, state: str) -> None:
        standing.state, standing.left = state, self.done + 1

    def _look_at(self, name: str, quantile: float) -> Look:
        effect = Effect.of(self._paired(name), self.quality)
        mean, width = effect.mean, effect.variance.width(quantile)
        chance = _chance(mean + self.margin, effect.variance)
        return Look(self.done + 1, mean, mean - width, mean + width, self._quality_of(name), chance, effect.variance)

    def _parts(self) -> tuple[list[int], list[int]]:
        """The seeds and the folds of which all trainings are there."""
        if self.done < self.rounds.folds:
            return list(range(self.rounds.seeds)), list(range(self.done + 1))
        return list(range(self.rounds.seeds + self.done - self.rounds.folds + 1)), list(range(self.rounds.folds))

    def _counts(self, name: str) -> np.ndarray:
        """float64 ``[S, D, m]``."""
        seeds, folds = self._parts()
        own = self._trials[name]
        return np.stack([np.concatenate([own[seed, fold].counts for fold in folds]) for seed in seeds])

    def _paired(self, name: str) -> Paired:
        _, folds = self._parts()
        held = [self._trials[self.reference.name][0, fold].documents for fold in folds]
        numbers = [self._numbers.setdefault(each, len(self._numbers)) for part in held for each in part]
        fold_of = [fold for fold, part in zip(folds, held, strict=True) for _ in part]
        return Paired(self._counts(name), self._counts(self.reference.name), np.array(numbers), np.array(fold_of))

    def _quality_of(self, name: str) -> float:
        return float(np.mean(self.quality(self._counts(name).sum(axis=1))))

    def _documents(self) -> int:
        """As many as all folds hold, if the missing ones are like those that were tested."""
        return round(len(self._numbers) * self.rounds.folds / min(self.done, self.rounds.folds))


def _chance(distance: float, variance: Variance) -> float:
    from scipy.special import stdtr  # of the extra "card"

    spread = variance.total**0.5
    if spread == 0:
        return 1.0 if distance > 0 else 0.0
    return float(stdtr(max(1.0, min(variance.freedom, 1e6)), distance / spread))
