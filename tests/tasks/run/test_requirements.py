"""What the machine lacks, and what makes no sense together, is one sentence before anything is read or written."""

from __future__ import annotations

import pytest
from layerselect import LayerSelectError
from layerselect.models import holding
from layerselect.tasks.card.run import CardJob, run_card
from layerselect.tasks.intent import IntentConfig, run_intent
from layerselect.tasks.revise import ReviseConfig, run_revise
from layerselect.tasks.run import requirements
from layerselect.tasks.run.requirements import check_requirements

COMMON = {"data": "/nowhere", "model": "/nowhere", "device": "cpu"}

LACKING = [
    ({"quantize": "4bit"}, "--quantize 4bit needs the package bitsandbytes"),
    ({"attention": "flash_attention_2"}, "needs the package flash-attn"),
    ({"optim": "adamw_8bit"}, "--optim adamw_8bit needs the package bitsandbytes"),
    ({"optim": "paged_lion_32bit"}, "--optim paged_lion_32bit needs the package bitsandbytes"),
    ({"optim": "schedule_free_sgd"}, "needs the package schedulefree"),
    ({"report_to": "tensorboard,wandb"}, "--report-to wandb needs its package"),
]
WRONG = [
    ({"optim": "adamw_torch_fusd"}, "no optimizer that can be used here: did you mean adamw_torch_fused"),
    ({"optim": "galore_adamw"}, "no optimizer that can be used here"),
    ({"report_to": "tensorbord"}, "nothing that the Trainer knows: did you mean tensorboard"),
    ({"quantize": "8bit", "adapter": "dora"}, "does not run on a CPU"),
    ({"push_to_hub": True}, "nobody is logged in to the model hub"),
]


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)


@pytest.mark.parametrize(("options", "words"), LACKING)
@pytest.mark.parametrize("run", ["intent", "revise", "card"])
def test_what_is_missing_is_said_before_the_corpus_is_read(tmp_path, monkeypatch, options, words, run):
    monkeypatch.setattr(holding, "is_installed", lambda package: False)
    monkeypatch.setattr(requirements, "is_installed", lambda package: False)
    settings = {**COMMON, **options, "out": str(tmp_path / "out")}
    with pytest.raises(LayerSelectError, match=words):
        if run == "intent":
            run_intent(IntentConfig(**settings))
        elif run == "revise":
            run_revise(ReviseConfig(**settings))
        else:
            run_card(CardJob(IntentConfig(**settings)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("options", "words"), WRONG)
def test_what_nobody_knows_is_said(options, words, monkeypatch):
    monkeypatch.setattr(holding, "is_installed", lambda package: True)
    with pytest.raises(LayerSelectError, match=words):
        check_requirements(IntentConfig(out="o", **COMMON, **options))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantize": "4bit", "adapter": "none"}, "quantized weights cannot train; choose an adapter"),
        ({"dtype": "float16", "adapter": "none"}, "--dtype float16 with --adapter none"),
        ({"dtype": "float8"}, "--dtype float8 is not one of auto, float32"),
        ({"quantize": "3bit"}, "--quantize 3bit is not one of none, 8bit, 4bit"),
        ({"gradient_checkpointing": "yes"}, "is not one of none, nonreentrant, reentrant"),
        ({"attention": "flash"}, "is not one of auto, sdpa"),
        ({"device_map": "balanced"}, "is not one of none, auto"),
        ({"eval_batch_size": 0}, "--eval-batch-size 0 must be at least 1"),
        ({"workers": -1}, "--workers -1 must not be negative"),
        ({"lr_warmup_steps": -1}, "--lr-warmup-steps -1 must not be negative"),
        ({"report_to": "none,wandb"}, "--report-to 'none,wandb' is no list of names"),
        ({"report_to": ""}, "is no list of names"),
        ({"targets": "q_proj,"}, "names nothing between two commas"),
    ],
)
@pytest.mark.parametrize("kind", [IntentConfig, ReviseConfig])
def test_what_makes_no_sense_is_refused_in_the_settings(kind, options, words):
    with pytest.raises(LayerSelectError, match=words):
        kind(out="o", **COMMON, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr_warmup_steps": 5, "lr_warmup": 0.5}, "--lr-warmup 0.5 has no effect with --lr-warmup-steps 5"),
        ({"hub_model_id": "a/b"}, "--hub-model-id a/b has no effect without --push-to-hub"),
        ({"adapter": "bottleneck", "targets": "mlp"}, "--targets mlp has no effect with --adapter bottleneck"),
        ({"bottleneck_places": "mlp"}, "--bottleneck-places mlp has no effect with --adapter lora"),
        ({"bottleneck_activation": "relu"}, "--bottleneck-activation relu has no effect with --adapter lora"),
        ({"device_map": "auto"}, "--device-map auto has no effect with --device cpu"),
    ],
)
def test_what_has_no_effect_is_named(options, words):
    assert IntentConfig(out="o", **COMMON, **options).without_effect() == [words]


SEVERAL = [
    ({"state_cache": "auto"}, "--state-cache auto measures which way is faster, and 2 processes"),
    ({"gradient_checkpointing": "reentrant", "mode": "freeze"}, "use --gradient-checkpointing nonreentrant"),
]


@pytest.mark.parametrize(("options", "words"), SEVERAL)
def test_what_several_processes_cannot_do_is_said(options, words, monkeypatch):
    check_requirements(IntentConfig(out="o", **COMMON, **options))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_requirements(IntentConfig(out="o", **COMMON))
    with pytest.raises(LayerSelectError, match=words):
        check_requirements(IntentConfig(out="o", **COMMON, **options))


def test_an_engine_that_the_commands_do_not_run_is_said(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(LayerSelectError, match="asks for DeepSpeed.* use FSDP with fsdp_version: 2"):
        check_requirements(IntentConfig(out="o", **COMMON))


def test_more_processes_than_gpus_are_said(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(LayerSelectError, match="4 processes were started on a machine with 2 GPUs"):
        check_requirements(IntentConfig(out="o", **{**COMMON, "device": "cuda", "dtype": "float32"}))
