"""bench/card_truth.py puts the figures of cards beside what layers that were trained alone gave."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from layerselect.card import FirstGain

from tests.card.made import made

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def truth(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import card_truth

    return card_truth


def card(fresh, performance):
    whole = made(fresh)
    return replace(
        whole, layers=[replace(layer, performance=p) for layer, p in zip(whole.layers, performance, strict=True)]
    )


def runs(folder, reached):
    """Finished runs of a comparison that trained one layer each: [seeds][L] of macro-F1; the loss is 1 minus that."""
    for seed, values in enumerate(reached):
        for layer, value in enumerate(values):
            cell = folder / "runs" / f"{layer}-{seed}"
            cell.mkdir(parents=True)
            (cell / "results.json").write_text("{}")
            settings = {"rule": f"fixed:layers=[{layer}]", "seed": seed}
            (cell / "config.json").write_text(json.dumps({"settings": settings}))
            lines = [{"split": "validation", "macro_f1": f, "loss": 1 - f} for f in (0.0, value)]
            (cell / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))


def test_the_table_says_what_goes_with_what(truth, tmp_path, monkeypatch, capsys):
    one = card([1.0, 2.0, 3.0, 4.0], [0.1, 0.2, 0.3, 0.4]).save(tmp_path / "one.json")
    other = card([4.0, 3.0, 2.0, 1.0], [0.4, 0.1, 0.3, 0.2]).save(tmp_path / "other.json")
    runs(tmp_path / "alone", [[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.45]])
    monkeypatch.setattr(sys, "argv", ["card_truth", str(one), str(other), "--trained", str(tmp_path / "alone")])
    assert truth.main() == 0
    rows = dict(
        line.strip("| ").split(" | ", 1) for line in capsys.readouterr().out.splitlines() if line.startswith("| ")
    )
    # 1 of the 24 orders of four layers is as good as the same one.
    assert rows["fresh of card 0, layers adapted alone on the sample of card 0"].startswith("+1.00")
    assert rows["fresh of card 0, layers adapted alone on the sample of card 0"].endswith(
        "| 0.042 | 1.00 (0.25), 1.00 (0.50)"
    )
    # Ranks 1 2 3 4 and 4 1 3 2: 1 - 6 * (9 + 1 + 0 + 4) / 60.
    assert rows["fresh of card 0, layers adapted alone on the sample of card 1"].startswith("-0.40")
    assert rows["fresh of card 1, macro-F1 of layers trained alone"].startswith("-1.00")
    assert rows["fresh of card 0, - loss of layers trained alone"].startswith("+1.00")


def test_first_gains_and_another_optimizer_have_their_rows(truth, tmp_path, monkeypatch, capsys):
    one = card([1.0, 2.0, 3.0, 4.0], [0.1, 0.2, 0.3, 0.4])
    layers = [
        replace(layer, adamw=FirstGain(slope, 1.0, gain), sgd=FirstGain(gain, 1.0, slope))
        for layer, slope, gain in zip(one.layers, (1.0, 2.0, 4.0, 3.0), (4.0, 3.0, 2.0, 1.0), strict=True)
    ]
    path = replace(one, layers=layers).save(tmp_path / "one.json")
    by_sgd = card([1.0, 2.0, 3.0, 4.0], [0.4, 0.3, 0.2, 0.1])
    by_sgd = replace(by_sgd, settings={**by_sgd.settings, "adapt_optimizer": "sgd"})
    other = by_sgd.save(tmp_path / "sgd.json")
    monkeypatch.setattr(sys, "argv", ["card_truth", str(path), "--adapted", str(other)])
    assert truth.main() == 0
    rows = dict(
        line.strip("| ").split(" | ", 1) for line in capsys.readouterr().out.splitlines() if line.startswith("| ")
    )
    for figure, first, second in (
        ("sum of absolute g", "+0.80", "-0.80"),
        ("first gain, AdamW", "-1.00", "+1.00"),
        ("sum of squared g", "-1.00", "+1.00"),
        ("first gain, SGD", "+0.80", "-0.80"),
    ):
        assert rows[f"{figure} of card 0, layers adapted alone on the sample of card 0"].startswith(first)
        assert rows[f"{figure} of card 0, layers adapted alone on the sample of card 0 by sgd"].startswith(second)
    elsewhere = replace(by_sgd, data={**by_sgd.data, "fingerprint": "another"}).save(tmp_path / "else.json")
    monkeypatch.setattr(sys, "argv", ["card_truth", str(path), "--adapted", str(elsewhere)])
    assert truth.main() == 2
    assert "is not of the sample of card 0" in capsys.readouterr().err


def test_runs_that_are_missing_are_said(truth, tmp_path, monkeypatch, capsys):
    one = card([1.0, 2.0], [0.1, 0.2]).save(tmp_path / "one.json")
    runs(tmp_path / "alone", [[0.1, 0.2], [0.1]])
    monkeypatch.setattr(sys, "argv", ["card_truth", str(one), "--trained", str(tmp_path / "alone")])
    assert truth.main() == 2
    assert "not every one of 2 layers was trained alone with every seed" in capsys.readouterr().err


def test_chance_of_many_layers_is_drawn(truth, monkeypatch):
    drawn = np.random.default_rng(1)
    one, other = drawn.normal(size=(2, 7))
    exact = truth.by_chance(one, other)  # 5,040 orders
    monkeypatch.setattr(truth, "PERMUTATIONS", 5000)
    assert 0.02 < exact < 0.98 and truth.by_chance(one, other) != exact
    assert truth.by_chance(one, other) == pytest.approx(exact, abs=0.03)
