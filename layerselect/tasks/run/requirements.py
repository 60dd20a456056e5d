"""What a run needs of the machine, found out before anything is read or loaded."""

from __future__ import annotations

from difflib import get_close_matches

import torch

from ...errors import LayerSelectError
from ...models.holding import Holding, check_holding, is_installed
from ...utils.launch import is_asked, launched, number_of
from .devices import check_device
from .settings import TrainingSettings
from .sharded import check_shards
from .trainer_settings import optimizer_for

#: Packages that optimizers of transformers need, by the beginning or end of their names.
_BITSANDBYTES = ("bitsandbytes", "'layerselect[quant]'")
_PACKAGES = {
    "galore_": ("galore_torch", "galore-torch"),
    "apollo_": ("apollo_torch", "apollo-torch"),
    "grokadamw": ("grokadamw", "grokadamw"),
    "schedule_free_": ("schedulefree", "schedulefree"),
    "stable_adamw": ("optimi", "torch-optimi"),
    "adamw_torch_4bit": ("torchao", "torchao"),
    "adamw_torch_8bit": ("torchao", "torchao"),
    "adamw_anyprecision": ("torchdistx", "torchdistx"),
    "lomo": ("lomo_optim", "lomo-optim"),
    "adalomo": ("lomo_optim", "lomo-optim"),
}
_OF_BITSANDBYTES = ("paged_", "lion_", "ademamix", "rmsprop_bnb", "adamw_bnb", "adamw_8bit")
#: Optimizers that step inside the backward pass, or over other parameters than the selector knows.
_OWN_WAYS = ("galore_", "apollo_", "lomo", "adalomo")
_OWN_MACHINES = ("adamw_torch_xla", "adamw_torch_npu_fused")


def check_requirements(config: TrainingSettings, *, several: bool = False) -> None:
    """Checks that this machine has what the settings ask for.

    Args:
        several: more than one process will be started for the run, if none has been yet.

    Raises:
        LayerSelectError: a device or a package is missing, or transformers knows no such thing.
    """
    check_device(config.device)
    holding = config.holding()
    check_holding(holding)
    if config.adapter == "dora" and holding.quantize == "8bit" and holding.device == "cpu":
        raise LayerSelectError(
            "--adapter dora with --quantize 8bit does not run on a CPU, where peft loses the scales of 8-bit weights: "
            "use --quantize 4bit, or --adapter lora"
        )
    _check_processes(config, holding, max(launched(), 2 if several else 1))
    _check_optimizer(optimizer_for(config.optim, holding.device))
    _check_reports(config.reports())
    if config.push_to_hub:
        _check_hub()


def _check_processes(config: TrainingSettings, holding: Holding, count: int) -> None:
    """Checks that the settings are for as many processes as were started, and for the way in which these train."""
    if is_asked("ACCELERATE_USE_DEEPSPEED"):
        raise LayerSelectError(
            "the configuration of accelerate asks for DeepSpeed, which keeps gradients in buffers of its own, so that "
            "no layer can be measured: use FSDP with fsdp_version: 2 (or --fsdp)"
        )
    check_shards(config, count)
    if count == 1:
        return
    here = number_of("LOCAL_WORLD_SIZE")
    if holding.device == "cuda" and here is not None and here > torch.cuda.device_count():
        raise LayerSelectError(
            f"{here} processes were started on a machine with {torch.cuda.device_count()} GPUs: start one for each GPU"
        )
    if holding.device_map != "none":
        raise LayerSelectError(
            f"--device-map {config.device_map} spreads a model over all GPUs in one process, and {count} were started: "
            "start one, or leave --device-map out"
        )
    if config.gradient_checkpointing == "reentrant" and (config.mode == "freeze" or config.state_cache != "none"):
        raise LayerSelectError(
            f"--gradient-checkpointing reentrant with frozen layers in {count} processes: DistributedDataParallel "
            "cannot tell which gradients will come; use --gradient-checkpointing nonreentrant"
        )
    if config.state_cache == "auto":
        raise LayerSelectError(
            f"--state-cache auto measures which way is faster, and {count} processes would find different ones: choose "
            "--state-cache cached or none"
        )


def _check_optimizer(name: str) -> None:
    from transformers.training_args import OptimizerNames

    known = [each.value for each in OptimizerNames if not each.value.startswith((*_OWN_WAYS, *_OWN_MACHINES))]
    if name not in known:
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise LayerSelectError(
            f"--optim {name} is no optimizer that can be used here: {hint}choose one of auto, {', '.join(known)}"
        )
    needed = next((needs for start, needs in _PACKAGES.items() if name.startswith(start)), None)
    if needed is None and name.startswith(_OF_BITSANDBYTES):
        needed = _BITSANDBYTES
    if needed is not None and not is_installed(needed[0]):
        raise LayerSelectError(
            f"--optim {name} needs the package {needed[0]}, which is not installed: pip install {needed[1]}, or "
            "choose another optimizer"
        )


def _check_reports(names: list[str]) -> None:
    if not names or names == ["all"]:
        return
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    known, there = list(INTEGRATION_TO_CALLBACK), get_available_reporting_integrations()
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise LayerSelectError(
                f"--report-to {name} is nothing that the Trainer knows: {hint}it knows {', '.join(known)}"
            )
        if name not in there and not is_installed(name):
            raise LayerSelectError(
                f"--report-to {name} needs its package, which is not installed: pip install {name.replace('_', '-')}, "
                "or leave it out"
            )


def _check_hub() -> None:
    from huggingface_hub import get_token

    if get_token() is None:
        raise LayerSelectError(
            "--push-to-hub: nobody is logged in to the model hub on this machine: run 'hf auth login', or set HF_TOKEN"
        )
