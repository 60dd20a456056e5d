"""Ranks shared out among maps under a budget of parameters."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layerselect import LayerSelectError
from layerselect.layers.ranks import LoraMap, share_ranks


def _maps(layers: int, sizes: list[tuple[int, int]]) -> list[LoraMap]:
    return [
        LoraMap(f"l.{layer}.m{n}", layer, f"m{n}", *size) for layer in range(layers) for n, size in enumerate(sizes)
    ]


@settings(max_examples=60, deadline=None)
@given(
    worth=st.lists(st.floats(0, 10), min_size=1, max_size=8),
    sizes=st.lists(st.tuples(st.integers(8, 64), st.integers(8, 64)), min_size=1, max_size=3),
    budget=st.integers(20, 20_000),
)
def test_the_budget_is_kept_and_used_and_ranks_follow_worth(worth, sizes, budget):
    maps = _maps(len(worth), sizes)
    cheapest = min(each.cost for each in maps)
    if max(worth) == 0 or budget < cheapest:
        with pytest.raises(LayerSelectError):
            share_ranks(maps, [worth[each.layer] for each in maps], budget)
        return
    found = share_ranks(maps, [worth[each.layer] for each in maps], budget)
    ranks = {each.name: found.rank_pattern.get(each.name.replace(".", "\\."), 0) for each in maps}
    assert found.parameters == sum(each.cost * ranks[each.name] for each in maps) <= budget
    full = all(ranks[each.name] == min(each.inputs, each.outputs) for each in maps if worth[each.layer] > 0)
    assert full or budget - found.parameters < max(each.cost for each in maps)
    for one in maps:
        for other in maps:
            if one.cost == other.cost and worth[one.layer] > worth[other.layer]:
                assert ranks[one.name] >= ranks[other.name] or ranks[one.name] == min(one.inputs, one.outputs)
        assert worth[one.layer] > 0 or ranks[one.name] == 0


def test_ranks_are_in_proportion():
    found = share_ranks(_maps(3, [(50, 50)]), [1.0, 2.0, 5.0], 100 * 16)
    assert list(found.rank_pattern.values()) == [2, 4, 10]
    assert list(found.alpha_pattern.values()) == [4, 8, 20]


def test_no_map_gets_more_than_asked():
    found = share_ranks(_maps(2, [(50, 50)]), [1.0, 9.0], 100 * 16, most=6)
    assert list(found.rank_pattern.values()) == [6, 6]
