"""Kept hidden states inside transformers.Trainer: one more argument of the callback."""

from __future__ import annotations

import pytest
import torch
from layerselect.integrations.transformers import SelectorCallback, last_checkpoint
from layerselect.trunk import TrunkStore

from tests.integrations.trainers import StopAfter, assert_same_end, train

KEPT = {"mode": "freeze", "probe_every": 3, "trunk": "cached", "cut": 2}


@pytest.mark.parametrize(
    "settings",
    [{}, {"bf16": True}, {"gradient_checkpointing": True}, {"gradient_accumulation_steps": 2}],
    ids=lambda settings: "-".join(settings) or "plain",
)
def test_the_same_training(tmp_path, settings):
    """Beside layers 2 and 3 alone, by freezing: the same weights, bit for bit, since the batches of each epoch are padded alike."""
    ends = []
    for name, options in (
        ("kept", {"rule": "all", **KEPT}),
        ("frozen", {"rule": "fixed:layers=[2,3]", "mode": "freeze"}),
    ):
        callback = SelectorCallback(options)
        trainer = train(tmp_path / name, callback, examples=6, save_strategy="no", **settings)
        ends.append({n: p.detach().clone() for n, p in trainer.model.named_parameters()})
        if name == "kept":
            assert callback.selector.trunk is not None and callback.selector.trunk.read > 0
            forwards = [vars(module).get("forward") for module in trainer.model.modules()]
            assert not any(type(f).__module__.startswith("layerselect") for f in forwards)
    for name, ours in ends[0].items():
        torch.testing.assert_close(ours, ends[1][name], rtol=1e-5, atol=1e-7, msg=name)


def test_a_resumed_training_reads_what_the_first_has_kept(tmp_path):
    whole = SelectorCallback({"rule": "variance", **KEPT})
    end = train(tmp_path / "whole", whole, examples=6)
    with TrunkStore(tmp_path / "states") as store:
        options = {"rule": "variance", **KEPT, "trunk_store": store}
        train(tmp_path / "cut", SelectorCallback(options), StopAfter(4), examples=6)
        resumed = SelectorCallback(options)
        trainer = train(tmp_path / "cut", resumed, resume=last_checkpoint(tmp_path / "cut"), examples=6)
    assert resumed.selector.cut == 2 and resumed.selector.trunk is not None
    assert resumed.selector.trunk.filled == 0 and resumed.selector.trunk.read == 8
    assert_same_end((trainer, resumed), (end, whole))
