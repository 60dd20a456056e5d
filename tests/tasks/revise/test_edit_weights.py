"""``--edit-weight``: which tokens of a revision belong to an edit, and a run in which they weigh more."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layerselect import LayerSelectError
from layerselect.tasks.revise import ReviseConfig, run_revise
from layerselect.tasks.revise.edit_weights import edit_weights
from layerselect.tasks.revise.model import prepare

END = 9
TOKENS = st.lists(st.integers(0, 3), max_size=8)


@pytest.mark.parametrize(
    ("source", "revision", "weights"),
    [
        ([1, 2, 3], [1, 2, 3], [1, 1, 1, 1]),
        ([1, 2, 3], [1, 5, 3], [1, 4, 1, 1]),
        ([1, 2, 3], [1, 5, 6, 2, 3], [1, 4, 4, 1, 1, 1]),
        ([1, 2, 3], [1, 3], [1, 4, 1]),  # where 2 is left out, 3 is what must be written instead
        ([1, 2, 3], [1, 2], [1, 1, 4]),  # and here the end
        ([1], [], [4]),
        ([], [5, 6], [4, 4, 1]),
    ],
)
def test_what_is_changed_weighs_more(source, revision, weights):
    assert edit_weights([*source, END], [*revision, END], 4.0) == weights


@given(TOKENS, TOKENS)
def test_what_weighs_one_is_copied_in_order(source, revision):
    weights = edit_weights([*source, END], [*revision, END], 2.0)
    assert len(weights) == len(revision) + 1 and set(weights) <= {1.0, 2.0}
    rest = iter([*source, END])
    assert all(token in rest for token, weight in zip([*revision, END], weights, strict=True) if weight == 1)
    assert (source == revision) == (2.0 not in weights)


@pytest.fixture
def config(options, tmp_path):
    more = {"transfer": "none", "rule": "upper", "eval_limit": 4, "max_length": 64, "max_steps": 3, "batch_size": 4}
    return ReviseConfig(**options, **more, edit_weight=4.0, out=str(tmp_path / "run"))


def test_only_training_is_weighted(config):
    _, splits = prepare(config, config.load_corpus())
    assert all(split.weights is None for split in splits.report)
    changed = [row["source"] != row["references"][0] for row in splits.train.rows]
    assert [4.0 in weights for weights in splits.train.weights] == changed and any(changed)
    assert [len(each) for each in splits.train.weights] == [len(each) for each in splits.train.completions]
    _, plain = prepare(replace(config, edit_weight=1.0), config.load_corpus())
    assert plain.train.weights is None and plain.train.completions == splits.train.completions


def test_a_run_with_weights_learns_something_else(config, tmp_path):
    """Its losses of unweighted splits are those of another model; and with the cache of hidden states it is the same
    one.
    """
    weighted = run_revise(config)
    plain = run_revise(replace(config, edit_weight=1.0, out=str(tmp_path / "plain")))
    cache = {"state_cache": "cached", "cut": "1", "state_cache_store": "none"}
    cached = run_revise(replace(config, **cache, out=str(tmp_path / "cached")))
    assert weighted.splits[0].loss != plain.splits[0].loss
    for name in ("start_loss", "end_loss"):
        assert weighted.training[name] != plain.training[name]
        assert cached.training[name] == pytest.approx(weighted.training[name], rel=1e-5)
    assert cached.splits[0].loss == pytest.approx(weighted.splits[0].loss, rel=1e-5)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), 1001.0])
def test_weights_that_are_none(weight):
    with pytest.raises(LayerSelectError, match="--edit-weight"):
        ReviseConfig(data="demo", model="demo", edit_weight=weight, out="x")
