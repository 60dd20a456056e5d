"""What of the settings reaches the Trainer, and who is told of a run."""

from __future__ import annotations

import logging

import pytest
from layerselect import LayerSelectError
from layerselect.placement import Placement
from layerselect.tasks.intent import IntentConfig, run_intent
from layerselect.tasks.run.folder import RunFolder
from layerselect.tasks.run.processes import Processes
from layerselect.tasks.run.publishing import publish
from layerselect.tasks.run.training import training_arguments


def arguments(tmp_path, **options):
    config = IntentConfig(
        **{"data": "d", "model": "m", "out": "o", "device": "cpu", "batch_size": 4, "max_steps": 50, **options}
    )
    return training_arguments(config, tmp_path, examples=100, evaluates=True, metric="macro_f1", greater_is_better=True)


def test_without_options_a_cpu_trains_as_it_did(tmp_path):
    found = arguments(tmp_path)
    assert found.optim == "adamw_torch" and found.per_device_eval_batch_size == 8 and found.warmup_steps == 3
    assert found.dataloader_num_workers == 0 and not found.dataloader_pin_memory and not found.fp16
    assert found.report_to == []


def test_options_arrive(tmp_path):
    options = {
        "optim": "adafactor",
        "eval_batch_size": 3,
        "lr_warmup_steps": 7,
        "workers": 2,
        "report_to": "tensorboard",
    }
    found = arguments(tmp_path, **options)
    assert found.optim == "adafactor" and found.per_device_eval_batch_size == 3 and found.warmup_steps == 7
    assert found.dataloader_num_workers == 2 and found.dataloader_persistent_workers
    assert found.report_to == ["tensorboard"]
    assert arguments(tmp_path, lr_warmup_steps=0).warmup_steps == 0


@pytest.mark.parametrize(("dtype", "scales"), [("float16", True), ("bfloat16", False), ("float32", False)])
def test_on_a_gpu(dtype, scales, monkeypatch):
    """The loss is scaled for float16 alone; AdamW is fused, and batches are pinned."""
    config = IntentConfig(data="d", model="m", out="o", dtype=dtype)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    holding = config.holding()
    assert (holding.device, holding.dtype) == ("cuda", dtype)
    found = config.trainer_arguments(holding.device)
    assert found["optim"] == "adamw_torch_fused" and found["dataloader_pin_memory"]
    assert config.scales_loss() == scales


def test_tensorboard_finds_its_file_in_the_finished_run(small_corpus, bert_folder, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    config = IntentConfig(
        data=str(small_corpus),
        model=str(bert_folder),
        out=str(tmp_path / "run"),
        device="cpu",
        max_steps=2,
        eval_limit=2,
        report_to="tensorboard",
        push_to_hub=True,
    )
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "token")
    sent = []
    monkeypatch.setattr("layerselect.tasks.run.runner.publish", lambda folder, config: sent.append(folder) or "there")
    run = run_intent(config)
    assert list((run.folder / "tensorboard").glob("events.*"))
    assert sent == [run.folder]


class Hub:
    """What is put on the hub."""

    def __init__(self, fails: bool) -> None:
        self.fails, self.took = fails, []

    def create_repo(self, name, exist_ok):
        assert exist_ok
        return type("Repo", (), {"repo_id": f"me/{name}"})

    def upload_folder(self, **what):
        if self.fails:
            raise OSError("the hub is away")
        self.took.append(what)
        return "https://hub/me"


@pytest.mark.parametrize(("given", "name"), [(None, "run"), ("other", "other")])
def test_the_adapter_goes_to_the_hub(tmp_path, monkeypatch, given, name):
    hub = Hub(fails=False)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    config = IntentConfig(data="d", model="m", out="o", push_to_hub=True, hub_model_id=given)
    assert publish(tmp_path / "run", config) == "https://hub/me"
    assert hub.took[0]["repo_id"] == f"me/{name}" and hub.took[0]["folder_path"] == tmp_path / "run" / "adapter"


def test_a_hub_that_is_away_does_not_take_the_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: Hub(fails=True))
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(LayerSelectError, match="the run is finished in .* 'hf upload run"),
    ):
        publish(tmp_path / "run", IntentConfig(data="d", model="m", out="o", push_to_hub=True))


def test_where_no_gpu_is_the_trainer_is_told_so(monkeypatch, tmp_path):
    """Or processes that were started together would not join, and train apart."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert arguments(tmp_path, device="auto").use_cpu


def test_a_trainer_that_has_not_joined_the_others_is_refused():
    Processes(count=1).check_joined(1)
    with pytest.raises(LayerSelectError, match="works with 1 of the 2 processes"):
        Processes(count=2).check_joined(1)


def test_a_placement_under_the_place_of_the_run_is_not_replaced(tmp_path):
    config = IntentConfig(data="d", model="m", out=str(tmp_path), placement=str(placed(tmp_path)))
    with pytest.raises(LayerSelectError, match="^--placement .* lies at --out"):
        RunFolder("layerselect intent", config)


def placed(folder):
    return Placement([0], names=["layer.0"]).save(folder)
