"""Where states are kept that are computed in one way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .keys import BatchKeys
from .padding import Parts, fits
from .shard import CacheShard


@dataclass(eq=False)
class CachedStates:
    """The shard of a state cache under one precision and autocast (:func:`numerics_on`).

    Attributes:
        dtypes, devices: of the hidden states of each stack with layers below the cut.
    """

    shard: CacheShard
    dtypes: list[torch.dtype]
    devices: list[torch.device]

    @property
    def on_gpu(self) -> bool:
        return any(device.type == "cuda" for device in self.devices)

    def look_up(self, batch: BatchKeys, masks: Sequence[Tensor | None]) -> list[Parts | None]:
        """The entries of a batch, ``None`` for those that are not there, or are of another length."""
        found = [self.shard.get(key) for key in batch.keys]
        return [entry if entry is not None and fits(entry, masks, row) else None for row, entry in enumerate(found)]


def numerics_on(device: torch.device) -> tuple[str, str | None, str]:
    """What decides, besides weights and tokens, how hidden states are rounded: the kind of device, autocast, and the
    precision of float32 products.
    """
    kind = device.type
    autocast = str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else None
    return kind, autocast, torch.get_float32_matmul_precision()
