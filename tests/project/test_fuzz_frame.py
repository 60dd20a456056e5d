"""The frame of `make fuzz` sees each way in which a case can go wrong."""

from __future__ import annotations

import random

import pytest
from layerselect.errors import LayerSelectError

supervisor = pytest.importorskip("tools.fuzz.supervisor", reason="the tools are not beside the tests")
from tools.fuzz import mutate, worker  # noqa: E402


def refuse(text):
    raise LayerSelectError(text)


@pytest.mark.parametrize(
    ("run", "ended", "failure"),
    [
        (int, "result", None),
        (lambda: refuse("one line"), "refusal", None),
        (lambda: refuse("two\nlines"), "failure", "a refusal that is no line"),
        (lambda: refuse(""), "failure", "a refusal that is no line"),
        (lambda: refuse("\ud800"), "refusal", None),  # every refusal can be written
        (lambda: {}["x"], "failure", "KeyError at test_fuzz_frame.py"),
    ],
)
def test_how_a_case_ends(run, ended, failure):
    found = worker.run_case(run, limit=False)
    assert found["ended"] == ended
    assert [kind.startswith(failure) for kind in found["failures"]] == ([True] if failure else [])


def test_a_case_is_known_again_by_its_number():
    pytest.importorskip("datasets")

    def drawn():
        return [mutate.break_value({"a": [1, "b"]}, draw) for draw in [random.Random("corpora 1.1")] for _ in range(20)]

    assert repr(drawn()) == repr(drawn())


def test_reports_are_counted_and_kinds_of_failure_kept_with_their_first_case():
    tally = supervisor.Tally("x")
    for case, kinds in ((1, []), (2, ["boom"]), (3, ["boom"])):
        report = {
            "case": case,
            "begins": "",
            "ended": "failure" if kinds else "result",
            "seconds": 0.1,
            "memory": 5,
            "failures": kinds,
        }
        supervisor.count(tally, "1.1", report)
    supervisor.count(tally, "1.1", {"case": 0, "begins": "first"})
    assert (tally.cases, tally.results, tally.most_memory) == (3, 1, 5)
    assert tally.failures == {"boom": ("--seed 1.1 --case 1", 2)}
