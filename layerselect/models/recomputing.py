"""Gradient checkpointing, switched on as ``transformers`` does it."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import LayerSelectError
from .running import base_of


class CannotRecompute(LayerSelectError):
    """An architecture without gradient checkpointing."""


def recompute_layers(model: nn.Module, kind: str, source: str) -> None:
    """Makes the layers keep their inputs only, and compute the rest again in the backward pass.

    The reentrant kind gives weights inside of a layer no gradient unless its input takes one. The embeddings' output is
    made to take one; where lower layers are frozen, the selector moves that up to the lowest one that trains.

    Args:
        model: the model to train; a ``peft`` adapter may be around it.
        kind: ``nonreentrant``, ``reentrant``, or ``none``, which changes nothing.
        source: what the user calls the model.

    Raises:
        CannotRecompute: the architecture cannot do it.
    """
    if kind == "none":
        return
    base: Any = base_of(model)
    options = {"use_reentrant": kind == "reentrant"}
    try:
        if hasattr(base, "activation_checkpointing_enable"):
            base.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
        else:  # transformers before 5.20 or so
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
        if kind == "reentrant":
            base.enable_input_require_grads()
    except (ValueError, NotImplementedError, AttributeError) as error:
        raise CannotRecompute(
            f"--gradient-checkpointing {kind}: {source} ({type(base).__name__}) cannot compute its layers again; use "
            "--gradient-checkpointing none"
        ) from error
    if getattr(base.config, "use_cache", False):
        base.config.use_cache = False  # it would be switched off in every pass, with a warning
