"""Cards on disk, and cards side by side."""

from __future__ import annotations

import json
import math

import pytest
from layerselect import LayerSelectError
from layerselect.card import LayerCard, diff
from layerselect.card.intervals import spearman_interval

from tests.card.made import made


def test_a_card_comes_back_as_it_was(tmp_path):
    card = made([3.0, 0.1, 2.0])
    path = card.save(tmp_path)
    assert path == tmp_path / "card.json" and list(tmp_path.iterdir()) == [path]
    assert LayerCard.load(path) == LayerCard.load(tmp_path) == card
    assert LayerCard.load(path).to_dict() == card.to_dict()
    assert json.loads(path.read_text())["schema"] == "layerselect.layer-card"


def test_a_card_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = made([1.0, 2.0]).save(tmp_path / "card.json")
    before = path.read_bytes()
    with pytest.raises(ValueError):
        made([math.nan, 2.0]).save(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("schema"), "is not a Layer Card"),
        (lambda v: v.update(version=3), "of version 3, and this package reads 1 and 2"),
        (lambda v: v.update(layers=[]), "layers has 0 items"),
        (lambda v: v["layers"][1].pop("fresh"), r"layers\[1\] holds no 'fresh'"),
        (lambda v: v["layers"][0].update(fresh="high"), r"layers\[0\].fresh is 'high' and must be a number"),
        (lambda v: v["layers"][0].update(fresh=True), "fresh is True and must be a number"),
        (lambda v: v["layers"][0]["cost"].update(flops=1.5), "cost.flops is 1.5 and must be a whole number"),
        (lambda v: v["layers"][0]["maps"][0].update(rows=None), "rows is null and must be a whole number"),
        (lambda v: v["coupling"].pop(), "coupling has 2 items and must have 3"),
        (lambda v: v["coupling"][0].__setitem__(1, 0.9), "coupling is not symmetric"),
        (lambda v: v["step_costs"]["forward"].pop(), "costs"),
        (lambda v: v.update(more=1), "is damaged"),
    ],
)
def test_a_damaged_card_is_refused(tmp_path, change, message):
    path = made([3.0, 0.1, 2.0]).save(tmp_path)
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(LayerSelectError, match=message):
        LayerCard.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["coupling"][0].__setitem__(1, 1e300), r"coupling\[0\]\[1\] is 1e\+300 and must be from"),
        (lambda v: v["coupling"][2].append(0.0), r"coupling\[2\] has 4 items and must have 3"),
        (lambda v: v["coupling"][1].__setitem__(1, None), r"coupling\[1\]\[1\] is null"),
        (lambda v: v.update(coupling=[[1, 1, 0], [1, 1, 1], [0, 1, 1]]), "is no matrix of cosines"),
        (lambda v: v.update(coupling=3), "coupling is 3 and must be a list"),
        (lambda v: v["layers"][0].update(fresh=1e300), r"fresh is 1e\+300 and must be from"),
        (lambda v: v["layers"][0]["cost"].update(flops=10**400), "a number of 401 digits"),
        (lambda v: v["layers"][0]["maps"][0].update(rows=-1), "rows is -1 and must be from 0"),
        (lambda v: v["step_costs"]["forward"].__setitem__(0, 1e300), "at most 1e\\+100"),
        (lambda v: v["step_costs"].update(forward=None), "forward is null"),
        (lambda v: v.update(layers=v["layers"] * 500), "layers has 1500 items and must have at most 1024"),
        (lambda v: v["layers"][0].update(name="\ud800"), "half of a character"),
        (lambda v: v["model"].pop("fingerprint"), "model holds no 'fingerprint'"),
        (lambda v: v.update(model=None), "model is null"),
        (lambda v: v["layers"].__setitem__(1, []), r"layers\[1\] is \[\] and must be an object"),
    ],
)
def test_a_card_with_absurd_numbers_or_shapes_is_refused(tmp_path, change, message):
    path = made([3.0, 0.1, 2.0]).save(tmp_path)
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(LayerSelectError, match=message) as refusal:
        LayerCard.load(path)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 400


@pytest.mark.parametrize("text", ["", "{", '{"schema": NaN}', "[]", "\x00"])
def test_what_is_no_card_is_refused(tmp_path, text):
    path = tmp_path / "card.json"
    path.write_text(text)
    with pytest.raises(LayerSelectError, match="not a card|not a Layer Card"):
        LayerCard.load(path)


def test_a_missing_card_is_said(tmp_path):
    with pytest.raises(LayerSelectError, match="cannot be read .*No such file.*layerselect card"):
        LayerCard.load(tmp_path / "none.json")


def test_diff_compares_orders():
    one, other = made([4.0, 3.0, 2.0, 1.0]), made([4.0, 3.0, 1.0, 2.0], data="other")
    difference = diff(one, other)
    # Ranks 4 3 2 1 and 4 3 1 2: 1 - 6 * 2 / (4 * 15).
    assert difference.rank_correlation == pytest.approx(0.8)
    assert difference.rank_interval == pytest.approx(spearman_interval(0.8, 4))
    assert difference.top == {1: 1.0, 2: 1.0, 3: pytest.approx(2 / 3)}
    assert difference.coupling_difference == 0.0
    assert difference.same_model and not difference.same_data
    assert difference.rows[2] == ("layers.2", 2.0, 1.0)
    assert diff(one, one).rank_correlation == pytest.approx(1.0)
    with pytest.raises(LayerSelectError, match="different layers"):
        diff(one, made([1.0]))
