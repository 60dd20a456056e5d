"""SelectorCallback inside transformers.Trainer: what is selected, measured and restored. Logs and checkpoints: beside
this.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.integrations import trainer_internals
from layerselect.integrations.transformers import SelectorCallback, last_checkpoint
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback

from tests.helpers.models import hugging_face, with_lora
from tests.integrations.trainers import arguments, assert_same_end, build, dataset, train


@pytest.mark.parametrize("mode", ["freeze", "gate"])
def test_one_callback_selects_layers(tmp_path, mode):
    callback = SelectorCallback(rule="topk:k=2", mode=mode, probe_every=3)
    trainer = train(tmp_path, callback)
    selector = callback.selector
    assert selector.steps == 8
    assert int(selector.frequency.sum()) == 16
    logged = [row for row in trainer.state.log_history if "loss" in row]
    assert len(logged) == 8
    masks = selector.history.arrays()["mask"]
    assert [row["layerselect/num_trained"] for row in logged] == [2] * 8
    assert [row["layerselect/lowest_trained"] for row in logged] == [int(mask.argmax()) for mask in masks]
    # The callback built the selector, so it has cleaned up after itself.
    assert all(p.requires_grad for n, p in trainer.model.named_parameters() if "lora_" in n)


def test_only_selected_layers_move(tmp_path):
    callback = SelectorCallback(rule="fixed:layers=[1]", mode="gate")
    start = {n: p.detach().clone() for n, p in with_lora(hugging_face("llama")).named_parameters()}
    trainer = train(tmp_path, callback)
    moved = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, start[n])}
    assert moved and all(".layers.1." in name for name in moved)


class Norms(TrainerCallback):
    """Measures the layers by itself, in float64, right before the optimizer's step."""

    def __init__(self) -> None:
        self.rows: list[list[float]] = []

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        named = list(kwargs["model"].named_parameters())
        squares = [0.0] * 4
        for name, parameter in named:
            if parameter.grad is not None:
                layer = int(name.split(".layers.")[1].split(".")[0])
                squares[layer] += float(parameter.grad.double().square().sum())
        self.rows.append([square**0.5 for square in squares])


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_accumulation_steps": 3},
        {"bf16": True, "gradient_accumulation_steps": 2},
        {"gradient_checkpointing": True, "gradient_accumulation_steps": 2},
        {"torch_compile": False, "optim": "adafactor"},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_scores_are_the_norms_of_the_accumulated_gradient(tmp_path, settings):
    norms, callback = Norms(), SelectorCallback({"rule": "variance", "mode": "observe"})
    trainer = train(tmp_path, norms, callback, max_steps=4, max_grad_norm=0.0, save_strategy="no", **settings)
    assert callback.selector.steps == trainer.state.global_step == 4
    scores = callback.selector.history.arrays()["scores"]
    assert scores == pytest.approx(np.array(norms.rows), rel=1e-5)


@pytest.mark.parametrize("mode", ["freeze", "gate"])
def test_gradient_checkpointing_changes_nothing_but_memory(tmp_path, mode):
    ends = []
    for checkpointing in (False, True):
        callback = SelectorCallback(rule="topk:k=2", mode=mode, probe_every=3)
        trainer = train(tmp_path, callback, save_strategy="no", gradient_checkpointing=checkpointing)
        ends.append((trainer, callback))
    assert_same_end(*ends)


def test_the_best_model_at_the_end(tmp_path):
    """The largest loss counts as the best, so that it is not the last one."""
    callback = SelectorCallback(rule="topk:k=2", probe_every=3)
    trainer = train(
        tmp_path,
        callback,
        evaluates=True,
        eval_strategy="steps",
        eval_steps=2,
        save_steps=2,
        load_best_model_at_end=True,
        save_total_limit=1,
        learning_rate=1.0,
        metric_for_best_model="loss",
        greater_is_better=True,
    )
    best = trainer.state.best_model_checkpoint
    losses = {row["step"]: row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row}
    step = max(losses, key=losses.get)
    assert best.endswith(f"checkpoint-{step}") and 2 <= step < 8
    saved = load_file(f"{best}/adapter_model.safetensors")
    now = {name: p for name, p in trainer.model.state_dict().items() if "lora_" in name}
    assert len(saved) == len(now) > 0
    assert all(torch.equal(saved[name.replace(".default", "")], value) for name, value in now.items())
    assert callback.selector.steps == 8
    # Its checkpoint is complete: training can continue from there.
    again = SelectorCallback(rule="topk:k=2", probe_every=3)
    train(tmp_path, again, resume=best, max_steps=step + 1, save_strategy="no")
    assert again.selector.steps == step + 1


def test_a_selector_of_ones_own_stays_open(tmp_path):
    model = with_lora(hugging_face("llama"))
    selector = FastSelector(model, "topk:k=1", mode="observe")
    trainer = Trainer(model, arguments(tmp_path), train_dataset=dataset(), callbacks=[SelectorCallback(selector)])
    trainer.train()
    assert selector.steps == 8
    trainer.train()
    assert selector.steps == 16
    selector.close()
    with pytest.raises(LayerSelectError, match="already built"):
        SelectorCallback(selector, rule="all")


def test_the_trainers_callbacks_are_left_as_they_were(tmp_path):
    trainer = build(tmp_path, SelectorCallback(mode="gate"), save_strategy="no")
    before = list(trainer.callback_handler.callbacks)
    trainer.train()
    assert trainer.callback_handler.callbacks == before


class Counts(TrainerCallback):
    def __init__(self) -> None:
        self.begun = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.begun += 1


def test_linking_into_the_list_skips_and_repeats_nobody(tmp_path):
    before, after = Counts(), Counts()
    trainer = build(tmp_path, before, SelectorCallback(mode="gate"), save_strategy="no", max_steps=1)
    trainer.add_callback(after)
    trainer.train()
    assert (before.begun, after.begun) == (1, 1)


def test_a_compiled_training_gates():
    """The compiled object is not the one that callbacks see."""
    from layerselect.integrations.selector_options import options_for

    assert options_for({"rule": "all"}, compiled=True) == {"rule": "all", "mode": "gate"}
    assert options_for({"mode": "freeze"}, compiled=True) == {"mode": "freeze"}
    assert options_for({"rule": "all"}, compiled=False) == {"rule": "all"}


def test_without_a_view_of_the_trainer_it_still_selects(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(trainer_internals, "currentframe", lambda: None)
    callback = SelectorCallback(rule="topk:k=2")
    trainer = train(tmp_path / "blind", callback)
    assert "hides its Trainer" in caplog.text
    assert trainer.state.log_history[0]["layerselect/num_trained"] == 2
    resumed = SelectorCallback(rule="topk:k=2")
    other = train(tmp_path / "blind", resumed, resume=str(tmp_path / "blind" / "checkpoint-4"))
    assert_same_end((trainer, callback), (other, resumed))


@pytest.mark.parametrize("unscaled", [False, True], ids=["scaled", "unscaled-by-clipping"])
def test_scaled_gradients_and_a_step_that_the_scaler_skips(tmp_path, monkeypatch, unscaled):
    """The Trainer's scaler of fp16, here over float32: the fourth step has an infinite gradient."""
    plain = SelectorCallback(rule="topk:k=2", mode="gate")
    train(tmp_path / "plain", plain, max_steps=3, max_grad_norm=0.0, save_strategy="no", lr_scheduler_type="constant")
    callback = SelectorCallback(rule="topk:k=2", mode="gate")
    trainer = build(tmp_path, callback, max_steps=6, save_steps=4, max_grad_norm=0.0, lr_scheduler_type="constant")
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    if unscaled:
        monkeypatch.setattr(
            type(trainer.accelerator),
            "unscale_gradients",
            lambda self, optimizer=None: self.scaler.unscale_(trainer.optimizer.optimizer),
        )
    first = next(p for p in trainer.model.parameters() if p.requires_grad)
    first.register_hook(lambda grad: grad / 0 if trainer.state.global_step == 3 else grad)
    trainer.train()
    selector = callback.selector
    rows = selector.history.arrays()
    assert trainer.state.global_step == 6
    assert selector.steps == len(rows["step"]) == 5
    assert int(selector.frequency.sum()) == 10
    ours = plain.selector.history.arrays()
    assert rows["scores"][:3] == pytest.approx(ours["scores"], rel=1e-5)
    assert (rows["mask"][:3] == ours["mask"]).all()
    # The checkpoint after the skipped step can be resumed from, though the counts differ.
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-6")
    resumed = SelectorCallback(rule="topk:k=2", mode="gate")
    trainer = build(tmp_path, resumed, max_steps=6, save_steps=4, max_grad_norm=0.0, lr_scheduler_type="constant")
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**3)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    again = resumed.selector.history.arrays()
    assert again["scores"].tobytes() == rows["scores"].tobytes()
    assert again["mask"].tobytes() == rows["mask"].tobytes()
