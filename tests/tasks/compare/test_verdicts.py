"""Intervals and verdicts against hand-made corpora, formulas written out in loops, and a small simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layerselect.tasks.compare import Paired, differences
from layerselect.tasks.compare.power import Shape, expected_power, measured_power, power_of
from layerselect.tasks.compare.verdicts import Difference
from layerselect.utils.paired import Variance, student, together
from scipy.stats import norm, t
from tools.simulate_verdicts import Setting, macro_f1, run, skill_for


def share_right(sums):
    """Accuracy: of right and all."""
    return sums[..., 0] / np.maximum(sums[..., 1], 1e-12)


def paired(ours, theirs, folds=None, documents=None):
    """Rows of right answers ``[S, D]``, one example in each document."""
    ours, theirs = (
        np.stack([np.array(each, dtype=float), np.ones_like(each, dtype=float)], -1) for each in (ours, theirs)
    )
    count = ours.shape[1]
    return Paired(
        ours,
        theirs,
        np.arange(count) if documents is None else documents,
        np.zeros(count, dtype=int) if folds is None else folds,
    )


def one(ours, theirs, **options):
    return differences({"row": paired(ours, theirs, **options)}, share_right, samples=400)["row"]


def answers(seed, seeds, count, share):
    return (np.random.default_rng(seed).random((seeds, count)) < share).astype(float)


def test_the_same_answers_differ_by_nothing_and_are_as_good():
    same = answers(0, 2, 60, 0.7)
    difference = one(same, same)
    assert (difference.mean, difference.low, difference.high) == (0.0, 0.0, 0.0)
    assert difference.verdict(0.0) == "as good"


def test_all_right_beats_all_wrong():
    right, wrong = np.ones((2, 90)), np.zeros((2, 90))
    difference = one(right, wrong)
    assert difference.mean == 1.0 and difference.verdict(0.02) == "better"
    assert one(wrong, right).verdict(0.02) == "worse"


@pytest.mark.parametrize(
    ("low", "high", "equal_low", "equal_high", "verdict"),
    [
        (0.001, 0.05, 0.005, 0.045, "better"),
        (-0.05, -0.001, -0.045, -0.005, "worse"),
        (-0.05, 0.05, -0.04, 0.04, "undecided"),
        (-0.021, 0.021, -0.02, 0.02, "as good"),
        (-0.021, 0.03, -0.02, 0.021, "undecided"),
        (0.001, 0.02, 0.002, 0.018, "as good"),  # it is better by what does not matter
    ],
)
def test_the_verdict_follows_from_the_intervals(low, high, equal_low, equal_high, verdict):
    variance = Variance(1e-4, 0.0, 0.0, 100, 2, 1)
    assert Difference(0.0, low, high, equal_low, equal_high, 2, 100, variance).verdict(0.02) == verdict


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(1, 4))
def test_the_parts_of_the_variance_are_those_of_two_way_clusters(seed, seeds, folds):
    """Of an accuracy on documents of one example each, which is linear, all parts can be written out."""
    random = np.random.default_rng(seed)
    count = 24
    ours, theirs = (
        (random.random((seeds, count)) < 0.6).astype(float),
        (random.random((seeds, count)) < 0.5).astype(float),
    )
    fold = random.permutation(np.arange(count) % folds)
    variance = one(ours, theirs, folds=fold).variance
    moved = (ours - theirs) / count
    mean = moved.mean(axis=0)
    assert variance.documents == pytest.approx(sum((x - mean.mean()) ** 2 for x in mean), rel=1e-6, abs=1e-12)
    chance = sum(np.var(moved[:, d], ddof=1) for d in range(count)) / seeds
    between = sum(np.var(moved[:, fold == f].sum(axis=1), ddof=1) for f in range(folds)) / seeds
    assert variance.chance == pytest.approx(chance, rel=1e-6, abs=1e-12)
    assert variance.between == pytest.approx(between, rel=1e-6, abs=1e-12)
    assert variance.total == pytest.approx(variance.documents + max(0.0, between - chance), rel=1e-6, abs=1e-12)


def test_one_seed_in_three_that_is_better_shows_no_difference():
    theirs = np.tile(answers(1, 1, 300, 0.6), (3, 1))
    ours = theirs.copy()
    ours[0, :60] = 1.0
    difference = one(ours, theirs)
    assert difference.mean > 0.02 and difference.low <= 0.0
    alike = np.tile(ours[:1], (3, 1))
    assert one(alike, theirs).low > 0.0


def test_clusters_widen_the_interval():
    """Twenty documents of fifteen examples that are all right or all wrong say as much as twenty examples."""
    random = np.random.default_rng(3)
    right = (random.random((2, 20)) < 0.6).astype(float)
    other = (random.random((2, 20)) < 0.6).astype(float)

    def counts(each):
        return np.stack([each * 15, np.full_like(each, 15.0)], -1)

    clustered = differences({"a": Paired(counts(right), counts(other), np.arange(20), np.zeros(20, int))}, share_right)[
        "a"
    ]
    single = one(np.repeat(right, 15, axis=1), np.repeat(other, 15, axis=1))
    assert clustered.mean == pytest.approx(single.mean)
    assert clustered.variance.documents == pytest.approx(15 * single.variance.documents, rel=1e-6)


def test_more_rows_make_wider_intervals_that_hold_together():
    theirs = answers(5, 2, 300, 0.6)
    folds = np.arange(300) % 30
    rows = {str(number): paired(answers(10 + number, 2, 300, 0.6), theirs, folds=folds) for number in range(8)}
    alone = differences({"0": rows["0"]}, share_right, samples=1000)["0"]
    together_ = differences(rows, share_right, samples=1000)["0"]
    assert together_.mean == alone.mean
    assert 1.1 < (together_.high - together_.low) / (alone.high - alone.low) < 1.6


def test_rows_may_have_different_documents_and_folds():
    theirs = answers(5, 2, 40, 0.5)
    whole = paired(answers(6, 2, 40, 0.5), theirs, folds=np.arange(40) % 2)
    half = paired(answers(7, 2, 20, 0.5), theirs[:, ::2], folds=np.zeros(20, int), documents=np.arange(0, 40, 2))
    found = differences({"whole": whole, "half": half}, share_right, samples=100)
    assert found["half"].documents == 20 and found["whole"].documents == 40


def test_what_cannot_be_paired_is_refused():
    with pytest.raises(ValueError, match="cannot be paired"):
        one(np.ones((2, 4)), np.ones((1, 4)))
    assert differences({}, share_right) == {}


def test_a_drawing_in_parts_is_a_drawing(monkeypatch):
    """Large corpora are drawn a few samples at a time."""
    ours, theirs = answers(1, 2, 50, 0.7), answers(2, 2, 50, 0.6)
    whole = one(ours, theirs)
    monkeypatch.setattr("layerselect.tasks.compare.verdicts._CHUNK", 150)
    parted = one(ours, theirs)
    assert parted.mean == whole.mean
    assert parted.high - parted.low == pytest.approx(whole.high - whole.low, rel=0.2)


@pytest.mark.parametrize("freedom", [1.0, 3.5, 30.0])
def test_students_quantile_is_scipys(freedom):
    assert student(2.5, freedom) == pytest.approx(t.ppf(norm.cdf(2.5), freedom))


def test_few_degrees_of_freedom_come_from_few_runs_that_differ():
    assert Variance(1e-4, 0.0, 0.0, 400, 2, 5).freedom == pytest.approx(399)
    # That few runs are alike by chance makes nothing certain.
    alike, unlike = Variance(4e-5, 3e-5, 0.0, 400, 2, 5), Variance(4e-5, 3e-5, 3e-5, 400, 2, 5)
    assert alike.freedom == unlike.freedom < 10
    assert Variance(1e-9, 0.0, 1e-4, 400, 2, 5).freedom == pytest.approx(5, rel=1e-3)
    assert Variance(0.0, 0.0, 0.0, 400, 2, 5).freedom == float("inf")


def test_more_seeds_and_documents_make_less_variance():
    measured = Variance(4e-5, 2e-5, 3e-5, 100, 2, 1)
    assert measured.with_more(100, 2, 1) == measured
    assert measured.with_more(100, 4, 1).total == pytest.approx(2e-5 + 1e-5 + 0.5e-5)
    assert measured.total == pytest.approx(5e-5)
    assert measured.with_more(500, 2, 5).total == pytest.approx(5e-5 / 5)


def test_the_quantile_of_several_rows_is_dunnetts():
    # Dunnett's table for two-sided comparisons, infinite degrees of freedom, 5 %: 1.96, 2.21, 2.51, 2.57.
    assert [round(together(rows, 0.95), 2) for rows in (1, 2, 5, 6)] == [1.96, 2.21, 2.51, 2.57]


def test_power_falls_with_variance_and_rises_with_documents():
    shape = Shape(300, 2, 5, 6, 0.02)
    small, large = (power_of(Variance(v, 0.0, 0.0, 300, 2, 5), shape, measured=True) for v in (1e-5, 4e-5))
    assert large.difference == pytest.approx(2 * small.difference, rel=1e-3)
    assert small.equality > large.equality
    assert power_of(Variance(0.0, 0.0, 0.0, 300, 2, 5), shape, measured=True).equality == 1.0
    # One row, plain normal distribution: 1.96 + 0.84 standard errors.
    alone = power_of(Variance(1e-4, 0.0, 0.0, 10**6, 2, 5), Shape(10**6, 2, 5, 1, 0.02), measured=True)
    assert alone.difference == pytest.approx(0.01 * (1.96 + 0.8416), rel=1e-3)
    few, many = (expected_power([count] * 5, Shape(count, 2, 5, 6, 0.02)) for count in (50, 500))
    assert few.difference > many.difference
    assert expected_power([], shape) is None
    assert expected_power([10, 10], Shape(20, 1, 5, 6, 0.02)) is None
    middle = measured_power([Variance(v, 0.0, 0.0, 300, 2, 5) for v in (1e-5, 4e-5, 9e-5)], shape)
    assert middle == large


def test_a_small_simulation_keeps_its_promises():
    """The whole one is ``tools/simulate_verdicts.py``; this one can only find gross mistakes."""
    assert macro_f1(skill_for(0.03, 0.02), 0.02) - macro_f1(0.0, 0.02) == pytest.approx(0.03, abs=1e-9)
    found = run(Setting(200, 5, 2, 0.02), 40, 100)
    assert found["wrong"] <= 0.175  # of 40 with a chance of 0.05, more than 7 are wrong once in a thousand times
    assert 0.55 <= found["found_at_told"] <= 0.97
