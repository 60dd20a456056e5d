"""Numbers of a page are written in one way."""

from __future__ import annotations

import math

import pytest
from layerselect.report import numbers


@pytest.mark.parametrize(
    ("function", "value", "written"),
    [
        (numbers.score, 0.92749, "0.927"),
        (numbers.score, 0.5, "0.500"),
        (numbers.share, 0.62, "62%"),
        (numbers.share, 0.0, "0%"),
        (numbers.share, 0.0001, "<1%"),
        (numbers.share, 0.9999, ">99%"),
        (numbers.share, 1.0, "100%"),
        (numbers.seconds, 0.0041234, "4.12 ms"),
        (numbers.seconds, 0.03718, "0.037 s"),
        (numbers.seconds, 34.58, "34.6 s"),
        (numbers.seconds, 12345.6, "12,346 s"),
        (numbers.amount, 3.744, "3.7"),
        (numbers.amount, 2.0, "2.0"),
        (numbers.amount, 2, "2"),
        (numbers.amount, 317100.4, "317,100"),
        (numbers.measure, 0.145, "0.1450"),
        (numbers.measure, 58872.4, "58,872"),
        (numbers.measure, 0.0, "0"),
        (numbers.number, 1484, "1,484"),
        (numbers.number, 317100.4, "317,100"),
        (numbers.number, True, "yes"),
        (numbers.number, "a 1000", "a 1000"),
        (numbers.number, [1000, 2], "1,000, 2"),
        (numbers.number, {"peak_bytes": 2_000_000}, "peak 2 MB"),
    ],
)
def test_a_number_of_each_kind(function, value, written):
    assert function(value) == written


@pytest.mark.parametrize("function", [numbers.score, numbers.share, numbers.seconds, numbers.amount, numbers.measure])
def test_what_is_not_known_is_a_dash(function):
    assert {function(value) for value in (None, math.nan, math.inf)} == {"–"}


@pytest.mark.parametrize(
    ("name", "value", "written"),
    [
        ("seconds_per_step", 0.03718, "0.037 s"),
        ("peak_memory_mb", 679.53, "679.5 MB"),
        ("trained_parameters", 3.171e5, "317,100"),
        ("trainable_parameters", 516197, "516,197"),
        ("layers_selected", 3.744, "3.7"),
        ("split_seed", 20260101, "20260101"),
        ("statistics_bytes", 12_300_000, "12.3 MB"),
        ("steps", 1000, "1,000"),
        ("mode", "freeze", "freeze"),
        ("states_cached", False, "no"),
        ("peak_memory_mb", None, "–"),
    ],
)
def test_a_name_says_what_is_counted(name, value, written):
    assert numbers.fact(name, value) == written


@pytest.mark.parametrize(
    ("count", "written"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps"), (20_004, "20,004 steps")]
)
def test_one_and_many(count, written):
    assert numbers.plural(count, "step") == written


def test_words_with_another_plural():
    assert [numbers.plural(n, "batch", "batches") for n in (1, 2)] == ["1 batch", "2 batches"]


def test_all_that_are_written_alike_are_best():
    assert numbers.bests([0.9271, 0.9274, 0.9, None, math.nan]) == [True, True, False, False, False]
    assert numbers.bests([0.9271, 0.9274], digits=4) == [False, True]
    assert numbers.bests([None, None]) == [False, False]
    assert numbers.bests([]) == []
