"""The table of the papers' claims: what a verdict is made of."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tests.card.made import made

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
    ],
)
def test_verdicts(tmp_path, claim, words):
    assert words in table(tmp_path, **claim)


def test_an_interval_is_of_ratios():
    mean, low, high = claims._interval([0.0, 0.0, 0.0])
    assert mean == low == high == 1.0
    mean, low, high = claims._interval([-0.1, 0.1])
    assert mean == pytest.approx(1.0) and low < 0.5 < 2 < high


@pytest.mark.parametrize(
    ("figures", "gains", "words"),
    [
        ([[1, 2, 3, 4, 5, 6]] * 2, [[1, 2, 3, 4, 5, 6]] * 2, "**supported**"),
        ([[6, 5, 4, 3, 2, 1]] * 2, [[1, 2, 3, 4, 5, 6]] * 2, "**contradicted**"),
        # A card is tested on the gains of the other one's sample, not on those of its own.
        ([[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]], [[6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6]], "**supported**"),
        ([[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]], [[1, 2, 3, 4, 5, 6]] * 2, "**undecided**"),
    ],
)
def test_a_figure_of_cards_is_tested_on_the_other_sample(tmp_path, figures, gains, words):
    for number, (each, gained) in enumerate(zip(figures, gains, strict=True)):
        card = made([float(value) for value in each])
        layers = [
            replace(layer, resnorm=float(value), performance=float(gain))
            for layer, value, gain in zip(card.layers, each, gained, strict=True)
        ]
        replace(card, layers=layers).save(tmp_path / f"{number}.json")
    assert words in table(tmp_path, cards=["0.json", "1.json"], card_figure="resnorm")


@pytest.mark.parametrize(("made_edits", "words"), [(1, "0.50 edits"), (2, "1.00 edits"), (4, "2.00 edits")])
def test_edits_are_counted_beside_those_of_the_references(tmp_path, monkeypatch, made_edits, words):
    from layerselect.tasks.compare import comparison as comparisons
    from layerselect.tasks.compare import state

    statistics = np.zeros((6, 50), dtype=np.int64)
    statistics[:, 38], statistics[:, 40] = 2, made_edits  # inserted: asked for, made
    run = SimpleNamespace(statistics={"test": statistics})
    variant = SimpleNamespace(name="ir/lora")
    found = SimpleNamespace(
        config=SimpleNamespace(variants=[variant]),
        split="test",
        examples={None: {"test": SimpleNamespace(documents=list("aabbcc"))}},
        finished=lambda each: {(0, None): run},
    )
    monkeypatch.setattr(state, "saved_config", lambda folder: None)
    monkeypatch.setattr(comparisons, "read_comparison", lambda config: found)
    line = table(tmp_path, row="ir/lora", edits="made")
    assert words in line
    verdict = {1: "supported", 2: "undecided", 4: "contradicted"}[made_edits]
    assert f"**{verdict}**" in line
    assert "**not run**" in table(tmp_path, row="nobody/lora", edits="made")
