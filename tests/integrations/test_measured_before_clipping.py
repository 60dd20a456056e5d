"""Scores are those of the gradients before the Trainer clips, whatever the capture, the mode and the settings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from layerselect.integrations.transformers import SelectorCallback

from tests.integrations.trainers import build

STEPS = 6

SETTINGS = {
    "plain": {},
    "accumulation": {"gradient_accumulation_steps": 3},
    "checkpointing": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
    "reentrant": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    "checkpointing-accumulation": {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": True},
        "gradient_accumulation_steps": 2,
    },
    "bf16": {"bf16": True},
}


def run(folder, capture, clip, mode, *, scaled=False, skipping=None, **settings):
    """What a training measured and selected. With plain gradient descent a clipped step goes another way, so that only
    the first scores of two runs that clip differently can be compared.
    """
    callback = SelectorCallback(rule="variance", mode=mode, capture=capture, probe_every=4)
    trainer = build(
        folder,
        callback,
        max_steps=STEPS,
        max_grad_norm=clip,
        save_strategy="no",
        optim="sgd",
        learning_rate=0.5,
        **settings,
    )
    if scaled:  # the Trainer's scaler of fp16, here over float32; it unscales where the Trainer clips
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        scaler = trainer.accelerator.scaler
        trainer.accelerator.unscale_gradients = lambda optimizer=None: scaler.unscale_(trainer.optimizer.optimizer)
    if skipping is not None:
        first = next(p for p in trainer.model.parameters() if p.requires_grad)
        first.register_hook(lambda grad: grad / 0 if trainer.state.global_step == skipping else grad)
    trainer.train()
    return callback.selector.history.arrays(), trainer


@pytest.mark.parametrize("mode", ["gate", "freeze"])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("clip", [0.05, 0.0])
def test_both_captures_say_the_same_bit_for_bit(tmp_path, mode, settings, clip):
    """Under clipping, too: both measure what the backward pass has left."""
    rows, _ = run(tmp_path / "backward", "backward", clip, mode, **SETTINGS[settings])
    other, _ = run(tmp_path / "step", "step", clip, mode, **SETTINGS[settings])
    assert rows.keys() == other.keys()
    for name in ("scores", "mask", "trained"):
        assert rows[name].tobytes() == other[name].tobytes(), name
    assert len(rows["mask"]) == STEPS and 0 < rows["mask"].sum() < rows["mask"].size


@pytest.mark.parametrize("mode", ["gate", "freeze"])
@pytest.mark.parametrize("capture", ["backward", "step"])
def test_the_first_scores_are_those_of_a_run_that_does_not_clip(tmp_path, mode, capture):
    clipped, trainer = run(tmp_path / "clipped", capture, 0.05, mode)
    free, _ = run(tmp_path / "free", capture, 0.0, mode)
    assert clipped["scores"][0].tobytes() == free["scores"][0].tobytes()
    norms = [row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row]
    assert min(norms) > 0.05  # every step was clipped
    if mode == "gate":
        assert np.sqrt((clipped["scores"] ** 2).sum(1)) == pytest.approx(norms, rel=1e-4)


@pytest.mark.parametrize("mode", ["gate", "freeze"])
@pytest.mark.parametrize("clip", [0.05, 0.0])
@pytest.mark.parametrize("skipping", [None, 2], ids=["", "a-skipped-step"])
def test_with_a_scaler(tmp_path, mode, clip, skipping):
    """Both captures bit for bit, and to float32's rounding what a run without a scaler measures."""
    how = {"scaled": True, "skipping": skipping}
    rows, trainer = run(tmp_path / "backward", "backward", clip, mode, **how)
    other, _ = run(tmp_path / "step", "step", clip, mode, **how)
    assert trainer.accelerator.scaler.is_enabled()
    for name in ("scores", "mask", "trained"):
        assert rows[name].tobytes() == other[name].tobytes(), name
    assert len(rows["mask"]) == STEPS - (skipping is not None)
    plain, _ = run(tmp_path / "plain", "backward", clip, mode)
    count = STEPS if skipping is None else skipping
    assert rows["scores"][:count] == pytest.approx(plain["scores"][:count], rel=1e-4)
