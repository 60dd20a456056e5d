"""How many tokens a model reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

#: What configurations call it; the first one that is there counts.
_NAMES = ("max_position_embeddings", "max_encoder_position_embeddings", "n_positions", "max_seq_len")


def usable_positions(model: nn.Module) -> int | None:
    """The most tokens that the model reads at a time; ``None``: no limit is known.

    Some families (XLNet) write a number below 1 where there is no limit. Others (RoBERTa, MPNet, XLM-R, Longformer,
    I-BERT, CamemBERT) count positions from behind the padding token's number, and so read fewer tokens than they have
    positions: their table of positions has a padding entry.
    """
    said = _configured(model.config)
    tables = [
        module.weight.shape[0] - module.padding_idx - 1
        for name, module in model.named_modules()
        if "position" in name.rpartition(".")[2]
        and isinstance(getattr(module, "padding_idx", None), int)
        and isinstance(getattr(module, "weight", None), torch.Tensor)
        and module.weight.dim() == 2
    ]
    limits = [limit for limit in (said, *tables) if limit is not None and limit > 0]
    return min(limits) if limits else None


def _configured(config: Any) -> int | None:
    parts = [config, config.get_text_config()] if hasattr(config, "get_text_config") else [config]
    for part in parts:
        for name in _NAMES:
            value = _value(part, name)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
    return None


def _value(config: Any, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except (NotImplementedError, KeyError):  # how some configurations say that they have none
        return None
