"""The facts of a training, for results and reports: steps, time, memory, how much was trained, and with what."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np
import torch

from ...costs.counted import LayerCosts
from ...selector.savings import savings
from ...selector.selector import FastSelector
from ...utils.linear_kind import elements
from .log import RunLog
from .training import MeasuredTrainer


def kept_step(trainer: MeasuredTrainer) -> int:
    """The step of the weights that the trainer's model has now: the best checkpoint's, or the last one."""
    state = trainer.state
    if trainer.args.load_best_model_at_end and state.best_model_checkpoint is not None:
        return int(state.best_model_checkpoint.rpartition("-")[2])
    return state.global_step


def steps_per_epoch(trainer: MeasuredTrainer) -> int:
    """How many steps of the optimizer one epoch takes."""
    return max(1, -(-len(trainer.get_train_dataloader()) // trainer.args.gradient_accumulation_steps))


def training_facts(trainer: MeasuredTrainer, selector: FastSelector, log: RunLog) -> dict[str, Any]:
    """What describes the training: steps, time, how much was trained.

    ``seconds_per_step``, ``processor_seconds_per_step`` and ``saved_mb`` are means over the steps of this process (an
    interrupted run's earlier steps are not in them), ``last_epoch_...`` are medians over the last of these steps, as
    many as an epoch has: where hidden states are kept, steps that read what the first epoch has computed.
    ``peak_memory_mb`` is the most that this process held, on the device if it trained on one; ``layers_selected``,
    ``layers_with_gradient``, ``layers_trained`` (selected, and with a gradient) and ``trained_parameters`` (of layers
    that trained, and outside the layers) are means over all steps. Of several ``processes``, times and memory are those
    of the first; ``sharded`` says whether each of them held a part of the model only.
    """
    rows = selector.history.arrays()
    trained = rows["mask"] & rows["trained"]
    parameters = list(trainer.model.parameters())
    facts = {
        "steps": trainer.state.global_step,
        "kept_step": kept_step(trainer),
        "seconds": round(sum(log.seconds), 3),
        "seconds_per_step": _mean(log.seconds),
        "processor_seconds_per_step": _mean(log.processor_seconds),
        "median_seconds_per_step": _median(log.seconds),
        "last_epoch_seconds_per_step": _median(log.seconds[-steps_per_epoch(trainer) :]),
        "last_epoch_processor_seconds_per_step": _median(log.processor_seconds[-steps_per_epoch(trainer) :]),
        "num_layers": selector.num_layers,
        "layers_selected": float(rows["mask"].sum(axis=1).mean()) if len(rows["mask"]) else None,
        "layers_with_gradient": float(rows["trained"].sum(axis=1).mean()) if len(rows["trained"]) else None,
        "layers_trained": float(trained.sum(axis=1).mean()) if len(trained) else None,
        "trained_parameters": _trained_parameters(selector, trained),
        "peak_memory_mb": round(_peak_memory(trainer.args.device) / 1e6, 1),
        "mode": selector.mode,
        "backend": selector.backend,
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "parameters": sum(elements(p) for p in parameters),
        "threads": torch.get_num_threads(),
        "device": str(trainer.args.device),
        "processes": trainer.args.world_size,
        "sharded": trainer.is_fsdp_enabled,
    }
    if trainer.saved_bytes:
        facts["saved_mb"] = round(float(np.mean(trainer.saved_bytes)) / 1e6, 3)
    return facts


def saved_by_selection(
    trainer: MeasuredTrainer, selector: FastSelector, costs: LayerCosts, budget: float | None
) -> dict[str, Any]:
    """The facts of :func:`~layerselect.selector.savings.savings` for a training that has ended, with its budget if it
    had one.
    """
    rows = selector.history.arrays()
    later = max(0, len(rows["step"]) - steps_per_epoch(trainer)) if selector.cut else 0
    facts = savings(selector, rows, costs, trainer.optimizer, saved_bytes=trainer.saved_bytes, cached_steps=later)
    return facts if budget is None else {**facts, "budget": budget}


def _mean(seconds: Sequence[float]) -> float | None:
    return round(float(np.mean(seconds)), 5) if seconds else None


def _median(seconds: Sequence[float]) -> float | None:
    return round(float(np.median(seconds)), 5) if seconds else None


def _trained_parameters(selector: FastSelector, masks: np.ndarray) -> float | None:
    if not len(masks):
        return None
    in_layers = np.array(selector.layer_sizes)
    outer = sum(p.numel() for p in selector.trainable_parameters()) - int(in_layers.sum())
    return float((masks @ in_layers).mean()) + outer


def _peak_memory(device: torch.device) -> int:
    """Bytes: the peak of the device's allocator, or of the resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def versions() -> dict[str, str]:
    """What made the run."""
    names = ("layerselect", "torch", "transformers", "peft", "datasets", "scikit-learn", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # a source tree that was never installed
            found[name] = "not installed"
    return found
