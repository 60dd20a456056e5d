"""Says what of a model may train: LoRA in the layers, or the layers themselves, and every fresh module."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..errors import LayerSelectError
from .models import LoadedModel

ADAPTERS = ("lora", "none")


@dataclass(frozen=True)
class AdapterConfig:
    """Which adapter, and its size.

    Attributes:
        kind: ``lora``; or ``none``, which trains the layers' own weights.
        rank, alpha, dropout: of LoRA; its update is scaled by ``alpha / rank``.
    """

    kind: str = "lora"
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05

    def __post_init__(self) -> None:
        if self.kind not in ADAPTERS:
            raise LayerSelectError(f"there is no adapter {self.kind!r}; the adapters are: {', '.join(ADAPTERS)}")
        if self.rank < 1 or self.alpha <= 0:
            raise LayerSelectError(f"rank={self.rank} and alpha={self.alpha} of the adapter must be positive")
        if not 0.0 <= self.dropout < 1.0:
            raise LayerSelectError(f"dropout={self.dropout} of the adapter is not in [0, 1)")


def add_adapter(loaded: LoadedModel, config: AdapterConfig) -> nn.Module:
    """Sets ``requires_grad`` for fine-tuning and returns the model to train.

    ``lora`` puts adapters on every linear map inside the layers; the fresh modules outside them train
    whole and are saved with the adapter. ``none`` trains the layers' own parameters and the fresh
    modules. Embeddings and other pretrained modules outside the layers stay as they are.

    Raises:
        LayerSelectError: the layers hold no linear map to adapt.
    """
    if config.kind == "none":
        return _train_layers(loaded)
    model = get_peft_model(
        loaded.model,
        LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=linear_maps(loaded.model, loaded.layer_names),
            modules_to_save=loaded.fresh or None,
        ),
    )
    assert isinstance(model, PeftModel)
    return model


def linear_maps(model: nn.Module, layer_names: Sequence[str]) -> str:
    """A regular expression that matches the linear maps inside the layers and nothing else.

    It names containers, not every layer, so that the saved configuration stays readable.

    Raises:
        LayerSelectError: there is none.
    """
    by_container: dict[str, set[str]] = {}
    for layer in layer_names:
        container = layer.rpartition(".")[0]
        for name, module in model.get_submodule(layer).named_modules():
            if name and _is_linear(module):
                by_container.setdefault(container, set()).add(name)
    if not by_container:
        raise LayerSelectError(
            f"the layers of {type(model).__name__} (from {layer_names[0]!r} on) hold no linear map that LoRA could adapt; "
            "use --adapter none"
        )
    parts = [
        re.escape(container) + r"\.[^.]+\.(?:" + "|".join(re.escape(name) for name in sorted(names)) + ")"
        for container, names in by_container.items()
    ]
    return "|".join(parts)


def _is_linear(module: nn.Module) -> bool:
    # Conv1D, in spite of its name, is a linear map with the weight transposed; peft adapts both.
    return isinstance(module, (nn.Linear, Conv1D))


def _train_layers(loaded: LoadedModel) -> nn.Module:
    trained = (*loaded.layer_names, *loaded.fresh)
    for name, parameter in loaded.model.named_parameters():
        parameter.requires_grad_(any(name.startswith(module + ".") for module in trained))
    return loaded.model
