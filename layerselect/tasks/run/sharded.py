"""Runs whose model is sharded over the processes: FSDP2, as ``accelerate`` sets it up for the Trainer.

A run asks for it with ``--fsdp``, or the configuration of ``accelerate launch`` does. What is saved is what one process
would have saved: checkpoints and adapters are whole, and the first process writes them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from peft import PeftModel
from torch import nn
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from ...distributed.gathered import gathered, gathered_state, scatter_state
from ...errors import LayerSelectError
from ...layers.find import split_parameters
from ...models.running import base_of
from ...models.traits import traits_of
from ...utils.launch import is_asked
from .settings import TrainingSettings
from .trainer_settings import optimizer_for

logger = logging.getLogger(__name__)

_PRECISION = "ACCELERATE_MIXED_PRECISION"
#: What the run says itself, where the configuration of ``accelerate launch`` says something: every process has all
#: weights before they are cut, and how they compute is ``--dtype``.
_OURS = {_PRECISION: "no", "FSDP_CPU_RAM_EFFICIENT_LOADING": "false"}
#: Optimizers that step shards as they step whole parameters: what they keep has the parameter's shape.
OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop")


def check_shards(settings: TrainingSettings, count: int) -> None:
    """Finds out before anything is loaded whether a sharded run can be what the settings ask for.

    Args:
        count: of the processes.

    Raises:
        LayerSelectError: it cannot.
    """
    if not settings.shards():
        return
    who = "--fsdp" if settings.fsdp else "the FSDP of accelerate's configuration"
    if count == 1:
        raise LayerSelectError(
            f"{who} shards the model over several processes, and one was started: start them with 'torchrun "
            "--nproc-per-node N -m layerselect' or 'accelerate launch' (for compare: --launcher), or leave it out"
        )
    if is_asked("ACCELERATE_USE_FSDP") and os.environ.get("FSDP_VERSION", "1") != "2":
        raise LayerSelectError(
            "the configuration of accelerate asks for FSDP1, which flattens the parameters of many layers into one, so "
            "that no layer can be measured: set fsdp_version: 2"
        )
    for name, option in (
        ("ACTIVATION_CHECKPOINTING", "use --gradient-checkpointing nonreentrant instead"),
        ("OFFLOAD_PARAMS", "start more processes instead"),
    ):
        if is_asked(f"FSDP_{name}"):
            raise LayerSelectError(
                f"the configuration of accelerate sets fsdp_{name.lower()}, which the commands do not use: leave it "
                f"out and {option}"
            )
    scaled = settings.holding().dtype == "float16"
    refused = {
        f"--quantize {settings.quantize}": settings.quantize != "none"
        and "packed weights cannot be cut: use --dtype bfloat16, or several processes without it",
        "--dtype float16": scaled and "no loss is scaled there: use --dtype bfloat16",
        "--gradient-checkpointing reentrant": settings.gradient_checkpointing == "reentrant"
        and "its second pass finds no weights: use --gradient-checkpointing nonreentrant",
        f"--state-cache {settings.state_cache}": settings.state_cache != "none"
        and "all processes must pass through all layers together: leave it out, or train without it",
        f"--attention {settings.attention}": settings.attention == "flash_attention_2"
        and "the model is tried in the host's memory before it is cut: use --attention sdpa",
        "--untrained": getattr(settings, "untrained", False)
        and "the untrained model would not be cut: score it in one process",
        f"--shots {getattr(settings, 'shots', 0)}": getattr(settings, "shots", 0)
        and "the untrained model would not be cut: score it in one process",
        "--forgetting": getattr(settings, "forgetting", None)
        and "the untrained model would not be cut: measure it in one process",
        "--measure-memory": settings.measure_memory
        and "gathered weights cannot be told from what the backward pass needs: leave it out",
        f"--optim {settings.optim}": optimizer_for(settings.optim, settings.holding().device) not in OPTIMIZERS
        and f"it does not step parts of parameters: use one of auto, {', '.join(OPTIMIZERS)}",
    }
    for option, reason in refused.items():
        if reason:
            raise LayerSelectError(f"{option} does not go with {who}: {reason}")


def check_sharded_model(settings: TrainingSettings, model: nn.Module) -> None:
    """Finds out before the training whether the model can be sharded.

    Raises:
        LayerSelectError: it cannot.
    """
    if not settings.shards():
        return
    if not traits_of(base_of(model)).pads:
        raise LayerSelectError(
            f"the model {settings.model!r} reads padding, so each process would call it another number of times, and a "
            "sharded model is called in all of them at once: leave FSDP out"
        )
    kinds = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.requires_grad}
    if len(kinds) > 1:
        raise LayerSelectError(
            f"FSDP shards parameters of one type, and here {' and '.join(sorted(kinds))} train: use --dtype float32, "
            "or an adapter"
        )


@contextmanager
def as_asked(settings: TrainingSettings) -> Iterator[None]:
    """In the block, the run and nobody else says how weights are loaded and in which precision they compute, and what a
    sharded run tells ``accelerate`` is forgotten afterwards.
    """
    before = {name: os.environ.get(name) for name in ("ACCELERATE_USE_FSDP", *_OURS)}
    own_state, kind = not AcceleratorState._shared_state, PartialState._shared_state.get("distributed_type")
    if before[_PRECISION] not in (None, "no"):
        logger.warning(
            "mixed_precision: %s of accelerate's configuration has no effect: --dtype says it", before[_PRECISION]
        )
    os.environ.update({name: value for name, value in _OURS.items() if before[name] is not None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if own_state and settings.fsdp:
            AcceleratorState._reset_state()
            PartialState._shared_state["distributed_type"] = kind


def fsdp_arguments(settings: TrainingSettings) -> dict[str, Any]:
    """What ``TrainingArguments`` is given. Each process loads the whole model and knows what is in it; the layers are
    the units that are cut.
    """
    if not settings.shards():
        return {}
    again = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true")
    config = {
        "version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "reshard_after_forward": again.lower() == "true",
        "cpu_ram_efficient_loading": False,
        "state_dict_type": "FULL_STATE_DICT",
    }
    return {"fsdp": True, "fsdp_config": config}


class ShardedTrainer(Trainer):
    """A Trainer that cuts the model at our layers, and whose checkpoints are those of a Trainer that cuts nothing."""

    _trained: frozenset[str] | None = None

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        if self.args.fsdp_plugin_args is not None and not self.is_fsdp_enabled:
            # accelerate shards on accelerators only, and says nothing where there are none.
            state.fsdp_plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
            state.distributed_type = DistributedType.FSDP
            self.is_fsdp_enabled = True

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_fsdp_enabled:
            kinds = {type(module).__name__ for module in split_parameters(self.model).modules}
            self.accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = sorted(kinds)
            if isinstance(self.model, PeftModel):  # later some layers may be frozen
                self._trained = frozenset(name for name, p in self.model.named_parameters() if p.requires_grad)
        return super()._prepare_for_training(*args, **kwargs)

    @contextmanager
    def whole(self, *, changed: bool = False) -> Iterator[None]:
        """In the block, what the model has learned stands there whole, and the Trainer takes it for one that nobody has
        sharded. Every process has to enter it.

        Args:
            changed: what the block loads reaches the shards.
        """
        if not self.is_fsdp_enabled:
            yield
            return
        self.is_fsdp_enabled = False
        try:
            with gathered(self.model, self._trained, changed=changed):
                yield
        finally:
            self.is_fsdp_enabled = True

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        with self.whole():
            super().save_model(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with self.whole(changed=True):
            self._load_weights(resume_from_checkpoint, model)

    def _load_weights(self, checkpoint: str, model: nn.Module | None) -> None:
        """Loads the weights of a checkpoint into the model, which is whole."""
        super()._load_from_checkpoint(checkpoint, model)

    def _load_best_model(self) -> None:
        with self.whole(changed=True):
            self._load_best_weights()

    def _load_best_weights(self) -> None:
        """Loads the weights of the best checkpoint into the model, which is whole."""
        super()._load_best_model()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = gathered_state(self.optimizer.state_dict())
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        sharded, self.is_fsdp_enabled = self.is_fsdp_enabled, False
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        finally:
            self.is_fsdp_enabled = sharded
        if sharded and checkpoint is not None:
            scatter_state(self.optimizer)
