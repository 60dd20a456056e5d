"""The race of candidates: what it claims, when it stops, and that it spends no more error than it may."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layerselect import LayerSelectError
from layerselect.placement import Candidate, Rounds, Trial, mean_of_counts, pilot
from layerselect.placement.race import AS_GOOD, NOT_NEEDED, RUNNING, UNLIKELY, WORSE, Race
from tools.simulate_pilot import Kind, run

ALL = Candidate("all", (0, 1, 2), 1.0, 0.01)
#: Right answers of ten, for each kind of candidate; the spread over documents is the same for all.
SKILL = {"all": 8.0, "upper": 8.0, "middle": 7.9, "head": 2.0, "idle": 1.0}


def trial(name: str, seed: int, fold: int, *, documents: int = 60, noise: float = 0.3) -> Trial:
    """Documents of ten answers: what they have in common, and a little that is this candidate's own."""
    shared = np.random.default_rng((fold, 7)).normal(size=documents)
    own = np.random.default_rng((len(name), seed, fold)).normal(size=documents)
    right = SKILL.get(name, SKILL["all"]) + shared + noise * own
    return Trial(tuple(f"{fold}-{each}" for each in range(documents)), np.stack([right, np.full(documents, 10.0)], 1))


def race_of(*candidates: Candidate, margin: float = 0.05, rounds: Rounds | None = None, idle: str | None = None):
    race = Race(candidates, ALL, quality=mean_of_counts, margin=margin, rounds=rounds or Rounds(4, 2, 0), idle=idle)
    while (parts := race.next_parts()) is not None:
        race.add({name: [trial(name, *part) for part in parts] for name in race.to_train()})
    return race


def states(race: Race) -> dict[str, str]:
    return {name: each.state for name, each in race.standings.items()}


@given(folds=st.integers(2, 9), seeds=st.integers(2, 6), more=st.integers(0, 6))
def test_rounds_train_each_seed_and_fold_once_and_spend_the_whole_error(folds, seeds, more):
    rounds = Rounds(folds, seeds, more)
    parts = [part for number in range(len(rounds)) for part in rounds.parts(number)]
    assert sorted(parts) == [(seed, fold) for seed in range(seeds + more) for fold in range(folds)]
    assert len(parts) == rounds.trials
    spent = [rounds.error(number) for number in range(len(rounds))]
    assert min(spent) > 0 and math.isclose(sum(spent), 0.05) and rounds.share(len(rounds) - 1) == 1.0


def test_the_cheapest_that_is_as_good_is_found_and_costlier_ones_leave():
    race = race_of(Candidate("upper", (2,), 0.4), Candidate("middle", (1,), 0.7), Candidate("head", (), 0.2))
    found = states(race)
    assert found["upper"] == AS_GOOD and found["head"] == WORSE and found["middle"] in (AS_GOOD, NOT_NEEDED)
    assert race.cheapest_as_good().candidate.name == "upper" and race.cheapest_open().candidate.name == "upper"
    assert race.done < 4  # nothing was left to decide
    look = race.standings["head"].looks[-1]
    assert look.low < look.mean < look.high < -0.05 and math.isclose(look.mean, -0.6, abs_tol=0.02)


def test_what_stands_badly_leaves_without_a_claim():
    race = race_of(Candidate("middle", (1,), 0.7), Candidate("head", (), 0.2), margin=0.599)
    assert states(race)["head"] in (UNLIKELY, RUNNING)
    assert states(race)["middle"] == AS_GOOD


def test_nothing_is_as_good_while_the_reference_has_learned_nothing():
    weak = {**SKILL, "all": 1.01, "upper": 1.0}
    race = Race(
        [Candidate("upper", (2,), 0.4), Candidate("idle", (), 0.0)],
        ALL,
        quality=mean_of_counts,
        margin=0.05,
        rounds=Rounds(4, 2, 0),
        idle="idle",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SKILL, "all", weak["all"])
        patch.setitem(SKILL, "upper", weak["upper"])
        while (parts := race.next_parts()) is not None:
            race.add({name: [trial(name, *part) for part in parts] for name in race.to_train()})
    assert not race.taught() and states(race)["upper"] == RUNNING and race.done == 2
    taught = race_of(Candidate("upper", (2,), 0.4), Candidate("idle", (), 0.0), idle="idle")
    assert taught.taught() and states(taught)["upper"] == AS_GOOD


def test_more_rounds_add_seeds_and_say_how_many_it_would_take():
    few = race_of(Candidate("upper", (2,), 0.4), margin=0.004, rounds=Rounds(2, 2, 0))
    assert states(few) == {"upper": RUNNING}
    many = race_of(Candidate("upper", (2,), 0.4), margin=0.004, rounds=Rounds(2, 2, 14))
    more = few.more_for(few.standings["upper"])
    assert many.done > 2 and many.standings["upper"].looks[-1].variance.seeds == many.done
    assert more is None or more > 1
    assert len(many.standings["upper"].looks) == many.done


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: race_of(), "give at least one"),
        (lambda: race_of(Candidate("all", (1,), 0.2)), "each name once"),
        (lambda: race_of(Candidate("upper", (2,), 0.4), margin=0.0), "is not above 0"),
        (lambda: race_of(Candidate("upper", (2,), 0.4), idle="idle"), "is none of the candidates"),
        (lambda: Rounds(1, 2, 0), "folds=1 is not a whole number of at least 2"),
        (lambda: Rounds(2, True, 0), "seeds=True"),
        (lambda: Rounds(2, 2, -1), "more=-1"),
    ],
)
def test_what_is_no_race_is_refused(make, message):
    with pytest.raises(LayerSelectError, match=message):
        make()


def test_trainings_that_do_not_fit_are_refused():
    race = Race([Candidate("upper", (2,), 0.4)], ALL, quality=mean_of_counts, margin=0.05, rounds=Rounds())
    with pytest.raises(LayerSelectError, match="all has 0 trainings and not 2"):
        race.add({})
    good = [trial("all", seed, 0) for seed in range(2)]
    with pytest.raises(LayerSelectError, match="other documents"):
        race.add({"all": good, "upper": [trial("upper", seed, 1) for seed in range(2)]})


def test_a_pilot_trains_within_its_cost_and_answers():
    asked = []

    def train(candidate, seed, fold):
        asked.append((candidate.name, seed, fold))
        return trial(candidate.name, seed, fold)

    candidates = [ALL, Candidate("upper", (2,), 0.4, 0.004), Candidate("again", (2,), 0.4), Candidate("head", (), 0.2)]
    result = pilot(candidates, train, margin=0.05, max_cost=0.2, rounds=Rounds(4, 2, 0))
    assert result.answer.sure and result.answer.chosen == "upper" and "as good as training all" in result.answer.why
    assert math.isclose(result.cost, sum({"all": 0.01, "upper": 0.004}.get(name, 0.0) for name, _, _ in asked))
    assert "again" not in {name for name, _, _ in asked}
    assert result.front()[0] == "head" and result.to_dict()["answer"]["chosen"] == "upper"
    placement = result.placement(["a", "b", "c"])
    assert placement.layers == [2] and not placement.doubt and placement.cost == 0.4
    with pytest.raises(LayerSelectError, match=r"may cost up to 0\.11 of a full training and not 0\.1"):
        pilot(candidates, train, rounds=Rounds(4, 2, 0))
    with pytest.raises(LayerSelectError, match="no candidate has the name 'all'"):
        pilot(candidates[1:], train)


def test_a_budget_is_kept_whatever_the_race_finds():
    """What costs more is no answer, though it is what the others are measured against."""
    head, worse, dear = Candidate("head", (), 0.2), Candidate("poor", (1,), 0.3), Candidate("upper", (2,), 0.7)
    options = {"margin": 0.05, "max_cost": 1.0, "rounds": Rounds(4, 2, 0)}

    def train(candidate, seed, fold):
        return trial("head" if candidate.name == "poor" else candidate.name, seed, fold)

    assert pilot([ALL, head, worse], train, **options).answer.chosen == "all"
    found = pilot([ALL, head, worse, dear], train, budget=0.5, **options)
    assert found.answer.chosen in ("head", "poor") and not found.answer.sure
    assert "shown to be worse" in found.answer.why and "within the budget of 0.5" in found.answer.why
    assert [each.candidate.name for each in found.standings] == ["head", "poor"]
    placement = found.placement(["a", "b", "c"])
    assert placement.cost <= 0.5 and placement.doubt == found.answer.why
    # What is within it and as good is the answer, as without one.
    assert pilot([ALL, head, dear], train, budget=0.7, **options).answer.chosen == "upper"
    assert pilot([ALL, head], train, budget=1.0, **options).answer.chosen == "all"
    # Where the reference has learned nothing, too.
    idle = Candidate("idle", (0,), 0.1)
    untaught = pilot([ALL, head, dear], lambda each, *part: trial("idle", *part), budget=0.7, idle=idle, **options)
    assert untaught.answer.chosen == "upper" and "upper trains the most" in untaught.answer.why
    with pytest.raises(LayerSelectError, match=r"no candidate beside 'all' has a step that costs at most 0\.1"):
        pilot([ALL, head], train, budget=0.1, **options)


def test_an_undecided_pilot_says_so():
    candidates = [ALL, Candidate("upper", (2,), 0.4, 0.001)]
    result = pilot(
        candidates, lambda each, *part: trial(each.name, *part, documents=8, noise=3.0), margin=0.02, max_cost=1
    )
    assert not result.answer.sure and result.answer.chosen in ("upper", "all")
    if result.answer.chosen == "upper":
        assert "undecided" in result.answer.why and result.placement(["a", "b", "c"]).doubt


def test_simulated_races_are_as_often_wrong_as_they_may_be():
    """A few hundred races with known truth; docs/measurements/pilot-races.json has thousands."""
    at_the_margin = run(Kind("at the margin", (-1.0,) * 6, 120, 2, 2, 1, 0.03), 100)
    as_good = run(Kind("as good", (0.0,) * 6, 331, 3, 2, 2, 0.02), 20)
    assert at_the_margin["wrong"] <= 0.05 + 3 * (0.05 * 0.95 / 100) ** 0.5
    assert as_good["undecided"] <= 0.5 and as_good["wrong"] <= 0.1
