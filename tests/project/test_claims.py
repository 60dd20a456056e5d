"""The table of the papers' claims: what a verdict is made of."""

from __future__ import annotations

import json

import pytest

claims = pytest.importorskip("tools.claims", reason="the tools are not beside the tests")
PLACE = claims.Path(__file__).parents[2] / "docs" / "measurements"


def table(tmp_path, **claim):
    path = tmp_path / "claims.json"
    # A whole path, so that rows which were read once are known.
    place = str(PLACE / "iterater-minilm")
    known = {"paper": "P", "claim": "c", "test": "t", "comparison": place, "reference": "all/lora"}
    path.write_text(json.dumps({"claims": [{**known, **claim}]}))
    return claims.claims_table(path).splitlines()[-1]


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ({"row": "head/lora", "says": "as good"}, "**contradicted (worse)**"),
        ({"row": "ir/lora", "says": "better"}, "**undecided**"),
        ({"row": "all/lora", "reference": "head/lora", "says": "better"}, "**supported**"),
        ({"row": "all/lora", "reference": "head/lora", "says": "as good"}, "**supported (better)**"),
        ({"row": "head/lora", "says": "worse"}, "**supported**"),
        ({"row": "text regression", "says": "worse"}, "**contradicted (better)**"),
        ({"row": "nobody/lora", "says": "better"}, "**not run**"),
        ({"row": "ir/lora", "reference": "nobody/lora", "says": "better"}, "**not run**"),
        ({"row": "head/lora", "cost": "saved_mb"}, "**supported**"),
        ({"row": "all/lora", "reference": "head/lora", "cost": "saved_mb"}, "**contradicted**"),
        ({"row": "nobody/lora", "cost": "saved_mb"}, "**not run**"),
        ({"where": "a.md", "figure": "table", "verdict": "undecided"}, "| [table](a.md) | **undecided** |"),
    ],
)
def test_verdicts(tmp_path, claim, words):
    assert words in table(tmp_path, **claim)


def test_an_interval_is_of_ratios():
    mean, low, high = claims._interval([0.0, 0.0, 0.0])
    assert mean == low == high == 1.0
    mean, low, high = claims._interval([-0.1, 0.1])
    assert mean == pytest.approx(1.0) and low < 0.5 < 2 < high
