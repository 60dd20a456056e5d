"""How long the short trainings of a pilot are, and which candidates it has room for, so that it keeps to its cost."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from ...costs.counted import LayerCosts
from ...errors import LayerSelectError
from ...placement.candidates import ALL, Candidate, distinct, step_cost, within
from ...placement.piloting import planned_cost
from ...placement.rounds import Rounds
from .settings import PilotSettings

#: A shorter training has not left its first noise behind.
LEAST_STEPS = 20
#: A short training is at most this part of a full one, unless it is asked for.
_SHORT = 0.2
#: Candidates that are worth a race, the reference among them.
_LEAST_CANDIDATES = 2


class NoRoom(LayerSelectError):
    """The options leave no room for a pilot: they would have to be others."""


@dataclass(frozen=True)
class Corpus:
    """What the sizes depend on.

    Attributes:
        examples: of the training split.
        batch: examples of a step.
        full: steps of a full training.
    """

    examples: int
    batch: int
    full: int

    @property
    def read_again(self) -> float:
        """Of a full training, the share of the steps whose examples an earlier step has seen."""
        return max(0.0, 1.0 - self.examples / (self.full * self.batch))


@dataclass(frozen=True)
class Sizes:
    """What a pilot does.

    Attributes:
        steps: of each short training.
        held_out: examples that it is tested on.
        cut: the layers below it are cached in the candidates that train above it only; 0: none are.
        candidates: with their costs; one of them is the reference.
        left_out: names of those that there was no room for.
        scouting: what the first training takes, as a fraction of a full one.
        most: what all may take together, likewise.
    """

    steps: int
    held_out: int
    cut: int
    candidates: list[Candidate]
    left_out: list[str]
    scouting: float
    most: float

    def cut_of(self, candidate: Candidate) -> int:
        """How many of the lowest layers are cached while this candidate trains."""
        return self.cut if reads(candidate, self.cut) else 0


def sizes_of(
    layers: Mapping[str, tuple[int, ...]],
    costs: LayerCosts,
    corpus: Corpus,
    settings: PilotSettings,
    *,
    caches: bool,
    scouting_steps: int = 0,
    open_names: Collection[str] = (),
) -> Sizes:
    """Finds the longest short trainings that ``--max-cost`` has room for; where even the shortest are too long, the
    last candidates are left out.

    Args:
        layers: of each candidate, in the order in which they are left out from the end.
        costs: of the model's layers.
        caches: whether hidden states can be cached. Then a candidate costs what it does with the layers below it
            cached, as ``layerselect intent --pilot`` trains it: they run for each example once.
        scouting_steps: of the first training, which trains all layers.
        open_names: candidates whose layers only stand for others that a first training has yet to tell. They are
            neither the same as others nor beyond a budget.

    Raises:
        NoRoom: there is no room for two candidates, or nothing to compare.
    """
    rounds = settings.rounds()
    reads = corpus.read_again if caches and costs.crossed_from is None else 0.0
    named = [Candidate(name, own, min(1.0, step_cost(costs, own, reads=reads))) for name, own in layers.items()]
    told = {
        each.name for each in distinct([each for each in within(named, settings.budget) if each.name not in open_names])
    }
    everything = [each for each in named if each.name in told or each.name in open_names]
    if len(everything) < _LEAST_CANDIDATES:
        raise NoRoom("there is nothing to compare with training all layers" + _way_out(named, settings.budget))
    room = settings.max_cost - scouting_steps / corpus.full
    for count in range(len(everything), _LEAST_CANDIDATES - 1, -1):
        kept = everything[:count]
        found = _sized(kept, costs, corpus, settings, rounds, room, caches=caches)
        if found is not None:
            left_out = [each.name for each in everything[count:]]
            scouting = scouting_steps / corpus.full
            return replace(found, left_out=left_out, scouting=scouting, most=found.most + scouting)
    steps = settings.steps or LEAST_STEPS
    pair = everything[:_LEAST_CANDIDATES]
    cut = _cut(pair, costs) if caches else 0
    needed = planned_cost(_priced(pair, steps, _held_out(steps, corpus, settings), cut, costs, corpus), rounds)
    needed = math.ceil(100 * (needed + scouting_steps / corpus.full)) / 100
    raise NoRoom(
        f"a pilot that costs at most {settings.max_cost:g} of one training of {corpus.full:,} steps has no room for "
        f"{rounds.trials} short trainings of {steps} steps of two candidates: allow --max-cost {needed:g}, or fewer "
        "--folds; on a corpus this small 'layerselect compare' costs little more"
    )


def _way_out(named: list[Candidate], budget: float | None) -> str:
    rest = [each for each in named if each.name != ALL]
    if budget is None or not rest:
        return ": name other --candidates"
    least = min(rest, key=lambda each: each.cost)
    enough = math.ceil(100 * least.cost) / 100
    return (
        f": no candidate costs at most {budget:g} of a step; allow --budget {enough:g}, which {least.name} costs, or "
        "name other --candidates"
    )


def _sized(
    kept: list[Candidate],
    costs: LayerCosts,
    corpus: Corpus,
    settings: PilotSettings,
    rounds: Rounds,
    room: float,
    *,
    caches: bool,
) -> Sizes | None:
    """The longest trainings of these candidates that there is room for; ``None``: not even the shortest are."""
    cut = _cut(kept, costs) if caches else 0

    def tried(steps: int) -> Sizes:
        held_out = _held_out(steps, corpus, settings)
        priced = _priced(kept, steps, held_out, cut, costs, corpus)
        return Sizes(steps, held_out, cut, priced, [], 0.0, planned_cost(priced, rounds))

    if settings.steps is not None:
        found = tried(settings.steps)
        return found if found.most <= room else None
    low, high = min(LEAST_STEPS, corpus.full), max(LEAST_STEPS, int(_SHORT * corpus.full))
    if tried(low).most > room:
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if tried(middle).most <= room else (low, middle - 1)
    return tried(low)


def _held_out(steps: int, corpus: Corpus, settings: PilotSettings) -> int:
    whole = max(1, corpus.examples // settings.folds)
    return min(whole, settings.held_out or steps * corpus.batch)


def _cut(candidates: list[Candidate], costs: LayerCosts) -> int:
    """The number of lowest layers whose cached hidden states save the most, over all candidates above them."""
    lowest = [min(each.layers, default=costs.num_layers - 1) for each in candidates if each.name != ALL]
    readers = {cut: sum(low >= cut for low in lowest) for cut in set(lowest) if cut}
    # What one candidate alone would read, it has to compute first.
    shared = {cut: costs.below_cost(cut) * count for cut, count in readers.items() if count > 1}
    return max(shared, key=lambda cut: (shared[cut], cut), default=0) if costs.crossed_from is None else 0


def _priced(
    candidates: list[Candidate], steps: int, held_out: int, cut: int, costs: LayerCosts, corpus: Corpus
) -> list[Candidate]:
    """The candidates with what a trial of each takes: its steps, its evaluation, and its share of what is cached."""
    forward = (math.fsum(costs.forward) + costs.rest / 2) / costs.whole
    below = costs.below_cost(cut)
    evaluations = held_out / corpus.batch
    seen = min(steps, corpus.examples / corpus.batch) + evaluations
    above = [each for each in candidates if reads(each, cut)]
    found = []
    for each in candidates:
        took = steps * step_cost(costs, each.layers) + evaluations * forward
        if each in above:
            took += below * (seen / len(above) - steps - evaluations)
        found.append(replace(each, trial=took / corpus.full))
    return found


def reads(candidate: Candidate, cut: int) -> bool:
    """Whether the candidate trains no layer below the cut."""
    return cut > 0 and min(candidate.layers, default=cut) >= cut
