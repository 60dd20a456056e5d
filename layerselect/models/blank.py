"""Models without weights, made of a configuration alone: what can be said of them is what their shapes say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from ..errors import LayerSelectError
from ..layers.find import split_parameters
from .configuration import head_of, read_configuration
from .folders import checked_configuration
from .fresh import in_full_precision
from .holding import Holding, keep_holding
from .load import LoadedModel
from .load_errors import sentence_of


def blank_model(
    source: str | Path, *, writes: bool, classes: int = 2, dropout: float | None = None, holding: Holding | None = None
) -> LoadedModel:
    """A model as :func:`~layerselect.models.load.load_classifier` or ``load_causal_lm`` gives it, on the device
    ``meta`` and without a tokenizer.

    Its linear maps are not packed, whatever the holding says of quantization. Flash attention keeps what the attention
    of ``torch`` keeps, which stands in its place.

    Args:
        source: a folder with a ``config.json``, such a file, or a hub id; nothing else is read.
        writes: with its language-model head; otherwise with a classification head, which is fresh.
        classes: of that head.
        dropout: replaces the model's own.
        holding: how the weights would be held.

    Raises:
        LayerSelectError: there is no such configuration, or no such model can be made of it.
    """
    holding, name = holding or Holding(), checked_configuration(source)
    overrides = {} if writes else head_of([str(number) for number in range(classes)], multi_label=False)
    auto: Any = AutoModelForCausalLM if writes else AutoModelForSequenceClassification
    attention = "sdpa" if holding.attention == "flash_attention_2" else holding.attention
    options = {} if attention == "auto" else {"attn_implementation": attention}
    try:
        config = read_configuration(name, dropout, overrides, holding)
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = 0  # a head reads the last token that is not padding
        with torch.device("meta"):
            model = auto.from_config(config, dtype=holding.torch_dtype, **options)
    except LayerSelectError:
        raise
    except Exception as error:  # configurations and models of all makes raise whatever they like
        raise LayerSelectError(sentence_of(name, error)) from error
    keep_holding(model, holding)
    layers = split_parameters(model).names
    fresh = [] if writes else _outside_base(model)
    in_full_precision(model, fresh)
    return LoadedModel(model, None, str(source), layers, fresh, writes=writes)


def _outside_base(model: nn.Module) -> list[str]:
    """The modules beside the pretrained model, which are its new head."""
    base = getattr(model, "base_model_prefix", "")
    return [name for name, child in model.named_children() if name != base and any(True for _ in child.parameters())]
