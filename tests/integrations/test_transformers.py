"""SelectorCallback inside transformers.Trainer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.checkpoint import TENSORS_FILE, VALUES_FILE, load_selector, save_selector
from layerselect.integrations.transformers import SelectorCallback
from transformers import Trainer, TrainerCallback, TrainingArguments

from tests.models import VOCABULARY, hugging_face, plain, plain_loss, with_lora


def dataset(count: int = 24) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, VOCABULARY, (7,), generator=generator) for _ in range(count)]
    return [{"input_ids": row, "labels": row} for row in rows]


def arguments(folder: Path, **changes: object) -> TrainingArguments:
    settings: dict[str, object] = {
        "output_dir": str(folder),
        "max_steps": 8,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_steps": 4,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 3,
    }
    return TrainingArguments(**{**settings, **changes})


def train(folder: Path, callback: SelectorCallback, resume: str | None = None, extra=(), **changes: object) -> Trainer:
    model = with_lora(hugging_face("llama"))
    trainer = Trainer(model, arguments(folder, **changes), train_dataset=dataset(), callbacks=[callback, *extra])
    trainer.train(resume_from_checkpoint=resume)
    return trainer


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


def test_accumulation_steps_once_per_optimizer_step(tmp_path):
    callback = SelectorCallback({"rule": "variance", "mode": "observe"})
    train(tmp_path, callback, gradient_accumulation_steps=3, max_steps=4)
    assert callback.selector.steps == 4


@pytest.mark.parametrize("mode", ["freeze", "gate"])
def test_resumed_run_ends_as_the_uninterrupted_one(tmp_path, mode):
    options = {"rule": "variance", "mode": mode, "probe_every": 3}
    whole_callback = SelectorCallback(**options)
    whole = train(tmp_path / "whole", whole_callback)

    class StopAfterFive(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 5

    train(tmp_path / "part", SelectorCallback(**options), extra=[StopAfterFive()])
    callback = SelectorCallback(**options)
    resumed = train(tmp_path / "part", callback, resume=str(tmp_path / "part" / "checkpoint-4"))
    for (name, a), b in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert torch.equal(callback.selector.frequency, whole_callback.selector.frequency)
    assert (callback.selector.history.arrays()["mask"] == whole_callback.selector.history.arrays()["mask"]).all()


def test_resuming_without_the_selector_is_refused(tmp_path):
    train(tmp_path, SelectorCallback(mode="gate"))
    for name in (VALUES_FILE, TENSORS_FILE):
        (tmp_path / "checkpoint-4" / name).unlink()
    with pytest.raises(LayerSelectError, match=r"checkpoint-4 holds no selector.json"):
        train(tmp_path, SelectorCallback(mode="gate"), resume=str(tmp_path / "checkpoint-4"))


def test_a_selector_of_ones_own_stays_open(tmp_path):
    model = with_lora(hugging_face("llama"))
    selector = FastSelector(model, "topk:k=1", mode="observe")
    trainer = Trainer(model, arguments(tmp_path), train_dataset=dataset(), callbacks=[SelectorCallback(selector)])
    trainer.train()
    assert selector.steps == 8
    selector.close()
    with pytest.raises(LayerSelectError, match="already built"):
        SelectorCallback(selector, rule="all")


def measured_selector() -> FastSelector:
    model = plain()
    selector = FastSelector(model, "random:k=2", mode="observe")
    for step in range(3):
        plain_loss(model, step).backward()
        selector.step()
    return selector


def test_checkpoint_files_hold_the_whole_state(tmp_path):
    selector = measured_selector()
    save_selector(selector, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [VALUES_FILE, TENSORS_FILE]
    other = FastSelector(plain(), "random:k=2", mode="observe")
    load_selector(other, tmp_path)
    assert torch.equal(other.frequency, selector.frequency)
    assert (other.history.arrays()["scores"] == selector.history.arrays()["scores"]).all()
    assert torch.equal(other.rule.state_dict()["generator"], selector.rule.state_dict()["generator"])


@pytest.mark.parametrize("damage", ["truncated", "not-json", "no-tensors", "missing-key"])
def test_a_damaged_checkpoint_is_refused_in_one_sentence(tmp_path, damage):
    save_selector(measured_selector(), tmp_path)
    if damage == "truncated":
        path = tmp_path / TENSORS_FILE
        path.write_bytes(path.read_bytes()[:40])
    elif damage == "not-json":
        (tmp_path / VALUES_FILE).write_text("{")
    elif damage == "no-tensors":
        (tmp_path / TENSORS_FILE).unlink()
    else:
        values = json.loads((tmp_path / VALUES_FILE).read_text())
        del values["step"]
        (tmp_path / VALUES_FILE).write_text(json.dumps(values))
    fresh = FastSelector(plain(), "random:k=2", mode="observe")
    with pytest.raises(LayerSelectError, match=r"damaged|holds no selector.safetensors") as error:
        load_selector(fresh, tmp_path)
    assert "\n" not in str(error.value)
    assert fresh.steps == 0


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    selector = measured_selector()
    save_selector(selector, tmp_path)
    good = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_selector(selector, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == good
    shutil.rmtree(tmp_path)
