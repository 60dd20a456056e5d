"""A selector that was to take a state with something wrong in it is as it was, and goes on."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from layerselect import FastSelector, LayerSelectError, Rule
from layerselect.checkpoint import TENSORS_FILE, VALUES_FILE, load_selector, save_selector
from safetensors.torch import load_file, save_file
from tools.fuzz.part_saved import broken, read_broken
from tools.fuzz.saved_kinds import RULES, SavedKind, Stack, all_kinds, same, step, trained

ODD = (
    None,
    "x",
    -1,
    10**400,
    float("nan"),
    [],
    {},
    [None],
    torch.ones(3, 3, 3),
    torch.ones(2, dtype=torch.complex64),
    torch.ones(4, device="meta"),
    torch.full((4,), float("inf")),
)


def places(state: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path to everything in a state."""
    for key, value in state.items() if isinstance(state, dict) else ():
        yield (*path, key)
        yield from places(value, (*path, key))


def put(state: dict[str, Any], path: tuple, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(state)
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return changed


@pytest.mark.parametrize("rule", RULES)
def test_any_value_of_a_state_may_be_wrong(rule):
    state = trained(rule).state_dict()
    taker = trained(rule, steps=3)
    before = taker.state_dict()
    refused = 0
    for path in places(state):
        for odd in random.Random(str(path)).sample(ODD, 3):
            try:
                taker.load_state_dict(put(state, path, odd))
            except LayerSelectError as refusal:
                refused += 1
                assert "\n" not in str(refusal) and len(str(refusal)) < 600
                assert same(before, taker.state_dict()), path
            else:
                step(taker)
                before = taker.state_dict()
    assert refused > 60
    step(taker)


@pytest.mark.parametrize("state", [None, [], "state", 3, torch.ones(3), {"version": 1}, {"version": None}, {1: 2}])
def test_what_is_no_state_is_refused(state):
    taker = trained("variance", steps=2)
    before = taker.state_dict()
    with pytest.raises(LayerSelectError):
        taker.load_state_dict(state)
    assert same(before, taker.state_dict())


def test_a_state_without_what_later_releases_added_is_read():
    state = trained("variance").state_dict()
    for name in ("trained_frequency", "kept_share", "step_cost"):
        del state["core"][name]
    del state["settings"], state["history"]["dropped"], state["history"]["missing"]
    taker = FastSelector(Stack(), mode="observe")
    taker.load_state_dict(state)
    assert taker.steps == 5 and taker.trained_frequency.tolist() == [0] * 4
    assert torch.equal(taker.scores, state["core"]["scores"])


class Fragile(Rule):
    """A rule of somebody else's, which takes a part of a state before it finds the rest to be wrong."""

    name = "fragile"

    def __init__(self) -> None:
        self.seen, self.last = 0, 0

    def select(self, scores: Any, status: Any) -> Any:
        raise AssertionError

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "last": self.last}

    def config(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]
        self.last = int(state["last"])


@pytest.mark.parametrize("wrong", [{"seen": 5, "last": "x"}, {"seen": 5}, {}, {"seen": 5, "last": None}])
def test_a_rule_of_ones_own_is_put_back(wrong):
    selector = FastSelector(Stack(), Fragile(), mode="observe")
    state = selector.state_dict()
    state["rule"]["state"] = wrong
    with pytest.raises(LayerSelectError, match="the state of rule 'fragile' cannot be taken"):
        selector.load_state_dict(state)
    assert selector.rule.state_dict() == {"seen": 0, "last": 0}


@pytest.mark.parametrize(
    "name", ["a.b", "version.x", "layer_names.0", "core.scores.x", "rule.name.x", "core.more.x", ".", "score"]
)
def test_tensors_that_the_values_have_no_place_for(tmp_path, name):
    save_selector(trained("variance"), tmp_path)
    tensors = load_file(tmp_path / TENSORS_FILE)
    save_file({**tensors, name: torch.ones(1)}, tmp_path / TENSORS_FILE)
    taker = trained("variance", steps=2)
    before = taker.state_dict()
    with pytest.raises(LayerSelectError, match="has no place in selector.json"):
        load_selector(taker, tmp_path)
    assert same(before, taker.state_dict())


def test_a_seal_that_names_files_elsewhere_is_not_followed(tmp_path):
    from layerselect.checkpoint import defect

    (tmp_path / "secret.bin").write_bytes(b"1")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    save_selector(trained("variance"), folder)
    values = json.loads((folder / VALUES_FILE).read_text())
    for name in ("../secret.bin", str(tmp_path / "secret.bin"), "/dev/zero"):
        values["files"] = {name: [1, "0"]}
        (folder / VALUES_FILE).write_text(json.dumps(values))
        assert "no file inside of its folder" in defect(folder)


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    """A right folder of each kind."""
    made = {}
    for kind in all_kinds():
        folder = tmp_path_factory.mktemp("right")
        kind.make(folder)
        made[kind.name] = folder
    return made


@pytest.mark.parametrize("kind", all_kinds(), ids=lambda kind: kind.name)
def test_a_broken_file_is_read_or_refused_in_one_sentence(kind: SavedKind, right, tmp_path):
    folder, rng = right[kind.name], random.Random(kind.name)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    refused = 0
    for _ in range(12):
        file = rng.choice(files)
        _, content = broken(file, rng)
        try:
            read_broken(kind, folder, tmp_path / "broken", file, content)
        except LayerSelectError as refusal:
            refused += 1
            assert "\n" not in str(refusal) and 0 < len(str(refusal)) < 2000
            str(refusal).encode()
    assert refused or kind.name in ("trainer checkpoint", "shard")  # which are told about in other words
