"""``--fsdp`` and accelerate's configuration: what is refused before anything is read, and what is left as it was."""

from __future__ import annotations

import os

import pytest
from layerselect import LayerSelectError
from layerselect.models.holding import Holding
from layerselect.models.load import placed_as_asked
from layerselect.tasks.intent import IntentConfig
from layerselect.tasks.revise import ReviseConfig
from layerselect.tasks.run import sharded
from layerselect.tasks.run.requirements import check_requirements
from layerselect.tasks.run.sharded import as_asked, check_sharded_model, fsdp_arguments
from torch import nn

SETTINGS = {"data": "nowhere", "model": "nothing", "out": "out", "device": "cpu"}
CONFIGURED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "false"}


@pytest.fixture
def launched(monkeypatch):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("configured", [False, True])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quantize": "4bit"}, "--quantize 4bit does not go with"),
        ({"quantize": "8bit"}, "--quantize 8bit does not go with"),
        ({"dtype": "float16"}, "--dtype float16 does not go with .*use --dtype bfloat16"),
        ({"gradient_checkpointing": "reentrant"}, "reentrant does not go with .*nonreentrant"),
        ({"state_cache": "cached", "mode": "freeze"}, "--state-cache cached does not go with"),
        ({"measure_memory": True}, "--measure-memory does not go with"),
        ({"optim": "adafactor"}, "--optim adafactor does not go with .*use one of auto, adamw_torch"),
    ],
)
def test_what_shards_cannot_do_is_refused(monkeypatch, launched, configured, settings, words):
    monkeypatch.setattr("layerselect.models.holding.is_installed", lambda package: True)
    if configured:
        for name, value in CONFIGURED.items():
            monkeypatch.setenv(name, value)
    who = "the FSDP of accelerate's configuration: " if configured else "--fsdp: "
    with pytest.raises(LayerSelectError, match=words) as caught:
        check_requirements(IntentConfig(**SETTINGS, **settings, fsdp=not configured))
    assert who in str(caught.value)


def test_the_untrained_model_is_not_cut(launched):
    with pytest.raises(LayerSelectError, match="--untrained does not go with --fsdp"):
        check_requirements(ReviseConfig(**SETTINGS, untrained=True, fsdp=True))
    with pytest.raises(LayerSelectError, match="--shots 2 does not go with --fsdp"):
        check_requirements(ReviseConfig(**SETTINGS, shots=2, fsdp=True))
    with pytest.raises(LayerSelectError, match="--forgetting does not go with --fsdp"):
        check_requirements(ReviseConfig(**SETTINGS, forgetting="text.txt", fsdp=True))


def test_what_is_cut_waits_in_the_memory_of_the_host(monkeypatch):
    """A model that is larger than a GPU never stands on one."""
    monkeypatch.setattr("layerselect.tasks.run.memory_settings.resolve_device", lambda device: "cuda")
    settings = {**SETTINGS, "device": "auto", "dtype": "bfloat16"}
    assert IntentConfig(**settings, fsdp=True).holding().on_host
    assert not IntentConfig(**settings).holding().on_host
    model = nn.Linear(2, 2)
    assert placed_as_asked(model, Holding(device="cuda", on_host=True), "it").weight.device.type == "cpu"


@pytest.mark.parametrize("kind", [IntentConfig, ReviseConfig])
@pytest.mark.parametrize("settings", [{}, {"mode": "freeze"}, {"adapter": "none"}, {"dtype": "bfloat16"}])
def test_what_shards_can_do_is_not(launched, kind, settings):
    check_requirements(kind(**SETTINGS, **settings, fsdp=True))


def test_shards_are_of_several_processes():
    with pytest.raises(LayerSelectError, match="--fsdp shards the model over several .*'torchrun --nproc-per-node N"):
        check_requirements(IntentConfig(**SETTINGS, fsdp=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"FSDP_VERSION": "1"}, "asks for FSDP1, .*set fsdp_version: 2"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "sets fsdp_activation_checkpointing, .*--gradient-checkpointing"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, "sets fsdp_offload_params, "),
    ],
)
def test_configurations_that_the_commands_do_not_run_are_said(monkeypatch, launched, changes, words):
    for name, value in {**CONFIGURED, **changes}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LayerSelectError, match=words):
        check_requirements(IntentConfig(**SETTINGS))


def test_the_configuration_says_when_weights_are_let_go_and_we_what_is_loaded(monkeypatch):
    settings = IntentConfig(**SETTINGS)
    assert not settings.shards() and fsdp_arguments(settings) == {}
    assert fsdp_arguments(IntentConfig(**SETTINGS, fsdp=True))["fsdp_config"]["reshard_after_forward"] is True
    for name, value in CONFIGURED.items():
        monkeypatch.setenv(name, value)
    found = fsdp_arguments(settings)["fsdp_config"]
    assert settings.shards() and found["version"] == 2
    assert (found["reshard_after_forward"], found["cpu_ram_efficient_loading"]) == (False, False)


def test_the_environment_is_as_it_was_afterwards(monkeypatch, caplog):
    given = {"ACCELERATE_MIXED_PRECISION": "bf16", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    with as_asked(IntentConfig(**SETTINGS)):
        assert [os.environ[name] for name in given] == ["no", "false"]
        os.environ["ACCELERATE_USE_FSDP"] = "true"  # as accelerate does
    assert {name: os.environ[name] for name in given} == given
    assert "ACCELERATE_USE_FSDP" not in os.environ
    assert "mixed_precision: bf16" in caplog.text and "--dtype" in caplog.text


def test_models_that_read_padding_are_refused(monkeypatch):
    class Traits:
        pads = False

    monkeypatch.setattr(sharded, "traits_of", lambda model: Traits)
    check_sharded_model(IntentConfig(**SETTINGS), nn.Linear(2, 2))
    with pytest.raises(LayerSelectError, match="'nothing' reads padding, .*leave FSDP out"):
        check_sharded_model(IntentConfig(**SETTINGS, fsdp=True), nn.Linear(2, 2))
