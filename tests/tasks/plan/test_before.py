"""What is said of a run before it loads anything, and what is named when memory has run out."""

from __future__ import annotations

import json

import pytest
import torch
from layerselect.cli.main import main
from layerselect.errors import LayerSelectError
from layerselect.tasks.intent import IntentConfig
from layerselect.tasks.plan import PlanSettings, before, make_plan
from layerselect.tasks.plan.before import next_smaller, planned, planned_run
from layerselect.tasks.run.memory import OutOfMemory
from layerselect.tasks.run.stages import TRAINING
from layerselect.utils.memory_errors import GPU

_LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
}


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Settings of runs of a small model, which is planned like a large one."""
    monkeypatch.setattr(before, "_SMALL", 0)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(_LLAMA))

    def made(**options):
        given = {"data": "demo", "model": str(tmp_path / "model"), "out": str(tmp_path / "run"), "device": "cpu"}
        return IntentConfig(**{**given, "batch_size": 8, "max_length": 64, **options})

    return made


def test_a_run_is_planned_as_the_plan_has_it(config):
    of_plan = make_plan(PlanSettings(model=config().model, device="cpu", batch_size=8, max_length=64, quantize="none"))
    assert planned_run(config(rule="all")).row.peak == of_plan.row("all", checkpointing=False).peak
    assert planned_run(config(rule="variance")).row.peak == of_plan.row("ir", checkpointing=False).peak
    assert planned_run(config(rule="upper")).row.peak == of_plan.row("top-half", checkpointing=False).peak
    assert planned_run(config(rule="upper", mode="gate")).row.peak == of_plan.row("all", checkpointing=False).peak
    again = planned_run(config(rule="all", gradient_checkpointing="nonreentrant"))
    assert again.row.peak == of_plan.row("all", checkpointing=True).peak


def test_small_models_and_the_demo_are_not_planned(config, monkeypatch):
    assert planned_run(config(model="demo")) is None
    monkeypatch.setattr(before, "_SMALL", 10**9)
    assert planned_run(config()) is None


def test_what_is_wrong_with_a_run_is_left_to_the_run(config):
    assert planned_run(config(model="/nowhere")) is None
    assert planned_run(config(optim="adalomo")) is None


def test_a_card_that_is_too_small_is_named(config, monkeypatch):
    found = planned_run(config())
    small = before.PlannedRun(found.row, 1_000_000)
    assert not small.fits and "may not be enough" in small.sentence()
    assert found.fits and "planned peak: " in found.sentence()


def test_the_next_smaller_choice_takes_less_and_can_be_typed(config):
    words = next_smaller(config())
    assert words.startswith("by plan, --")
    options = words.removeprefix("by plan, ").partition(" takes ")[0].split()
    names = {"--gradient-checkpointing", "--quantize", "--batch-size", "--accumulate"}
    assert set(options[::2]) <= names
    pairs = zip(options[::2], options[1::2], strict=True)
    changed = {name.removeprefix("--").replace("-", "_"): value for name, value in pairs}
    changed |= {name: int(value) for name, value in changed.items() if value.isdigit()}
    assert planned_run(config(**changed)).row.peak < planned_run(config()).row.peak


def test_memory_that_runs_out_is_answered_with_the_plan(config):
    told = []
    with (
        pytest.raises(LayerSelectError, match=r"memory ran out.*; by plan, --") as caught,
        planned(config(), lambda kind, record: told.append((kind, record["text"]))),
    ):
        raise OutOfMemory(config(), GPU, TRAINING)
    assert "\n" not in str(caught.value)
    assert told[0][0] == "planned" and told[0][1].startswith("planned peak: ")


def test_the_command_says_it_before_anything_is_loaded(config, monkeypatch, capsys):
    """The model has no weights: the plan is said, and then what is missing."""
    asked = config()
    typed = ["intent", "--data", "demo", "--model", asked.model, "--out", asked.out, "--device", "cpu"]
    assert main(typed) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("planned peak: ")
    assert said[-1].startswith("layerselect: ")


@pytest.mark.cuda
def test_on_a_gpu_its_memory_is_looked_up(config):
    found = planned_run(config(device="cuda"))
    assert found.memory == torch.cuda.get_device_properties(0).total_memory
