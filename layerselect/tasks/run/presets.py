"""The published settings of the methods, by name: ``--preset``. An option that is given beside one wins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import LayerSelectError

#: What both presets share: the adapter and the training of IR-Tuning's public code.
_TRAINING: dict[str, Any] = {
    "adapter": "lora",
    "lora_rank": 32,
    "lora_alpha": 64,
    "lora_dropout": 0.05,
    "targets": "q_proj,k_proj,v_proj,up_proj,down_proj",
    "bottleneck_size": 256,
    "bottleneck_activation": "tanh",
    "dtype": "float16",
    "lr": 2e-4,
    "epochs": 4.0,
    "batch_size": 16,
    "lr_warmup_steps": 100,
    "max_length": 256,
    "seed": 171,
    "mode": "freeze",
    "score": "sqrt_sum",
}


@dataclass(frozen=True)
class Preset:
    """Published settings.

    Attributes:
        task: the command that they are for.
        settings: of its configuration.
        source: where they come from, and what of them is not known.
    """

    task: str
    settings: Mapping[str, Any]
    source: str


PRESETS: dict[str, Preset] = {
    "ir-tuning": Preset(
        "intent",
        {**_TRAINING, "rule": 'held:base="variance"', "probe_every": 0, "format": "plain", "class_weights": "none"},
        "the public code of IR-Tuning (arXiv 2510.00268): float16, LoRA of rank 32 on five maps, learning rate 2e-4, "
        "four epochs of batches of 16 with 100 warm-up steps, 256 tokens, seed 171, a random first choice, scores of "
        "frozen layers held for good. Not known: how many layers the first choice has, and how the instruction is put",
    ),
    "intention-tuning": Preset(
        "revise",
        {**_TRAINING, "transfer": "shared", "rule": "variance", "predictor_lr": 2e-4, "predictor_epochs": 4.0},
        "the method of Intention-Tuning (arXiv 2602.00477): the generator starts from the predictor's adapters in the "
        "layers that mattered. Its own settings could not be read: the training is that of IR-Tuning's public code",
    ),
}


def preset_settings(name: str, task: str) -> dict[str, Any]:
    """The settings of a preset.

    Args:
        task: the command that asks.

    Raises:
        LayerSelectError: there is no such preset, or it is for another task.
    """
    if name not in PRESETS:
        raise LayerSelectError(f"--preset {name!r} is unknown: give one of {', '.join(PRESETS)}")
    preset = PRESETS[name]
    if preset.task != task:
        own = [each for each, other in PRESETS.items() if other.task == task]
        raise LayerSelectError(
            f"--preset {name} is for --task {preset.task}, not {task}: give {' or '.join(own) or 'none'}"
        )
    return dict(preset.settings)
