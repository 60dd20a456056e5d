"""The configuration of a pretrained model, as its ``config.json`` has it and as a run wants it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoConfig

from .holding import Holding, check_unquantized


def read_configuration(name: str, dropout: float | None, overrides: Mapping[str, Any], holding: Holding) -> Any:
    """What ``transformers`` reads of a model before its weights.

    Args:
        name: a folder, a file, or a hub id.
        dropout: replaces the model's own dropout where its configuration has one.
        overrides: replace what the configuration has under these names.
        holding: how the model will be held.

    Raises:
        LayerSelectError: the model is to be quantized and is quantized already. ``transformers`` raises what it likes.
    """
    config = AutoConfig.from_pretrained(name, trust_remote_code=False, **overrides)
    check_unquantized(config, holding, name)
    _override_dropout(config, dropout)
    _without_rescaling(config)
    return config


def head_of(labels: Sequence[str], *, multi_label: bool) -> dict[str, Any]:
    """What a configuration says of a classification head.

    Args:
        labels: the names of the classes, in class order.
        multi_label: several labels may be right at once.
    """
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
        "problem_type": "multi_label_classification" if multi_label else "single_label_classification",
    }


def _override_dropout(config: Any, dropout: float | None) -> None:
    if dropout is None:
        return
    for key in (
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "dropout",
        "attention_dropout",
        "dropout_rate",
        "resid_pdrop",
        "embd_pdrop",
        "attn_pdrop",
    ):
        if isinstance(getattr(config, key, None), float):
            setattr(config, key, dropout)


def _without_rescaling(config: Any) -> None:
    """Some models (RWKV) halve their weights in place from some layer on whenever they go over to evaluation, so that
    half precision does not overflow: here they run in float32, and adapters beside the weights would not be halved.
    """
    if isinstance(getattr(config, "rescale_every", None), int):
        config.rescale_every = 0
