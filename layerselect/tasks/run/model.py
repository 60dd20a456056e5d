"""The model of a run, ready to train."""

from __future__ import annotations

from torch import nn

from ...models.adapters import add_adapter
from ...models.load import LoadedModel
from ...models.recomputing import recompute_layers
from .settings import TrainingSettings


def trainable(loaded: LoadedModel, settings: TrainingSettings) -> nn.Module:
    """The model with its adapter, and with gradient checkpointing if the settings ask for it.

    Raises:
        LayerSelectError: the adapter finds no place in it, or the architecture cannot compute its layers again.
    """
    model = add_adapter(loaded, settings.adapter_config())
    recompute_layers(model, settings.gradient_checkpointing, loaded.source)
    return model
