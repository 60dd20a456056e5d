"""Whether an engine makes the gradients of a model final before its backward pass ends."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..layers.model_hooks import ModelHook
from .engines import processes


class EngineSeen:
    """Knows who averages gradients where several processes train.

    ``DistributedDataParallel`` and ``fully_shard`` have done so when the backward pass has ended. Where neither is at
    work, gradients may be averaged by hand afterwards, and are final only when the selector's step begins.

    Args:
        model: whose forward passes show whether ``DistributedDataParallel`` runs it. It may have been given without its
            wrapper.
        sharded: the parameters are those of ``fully_shard`` or the like.
    """

    def __init__(self, model: nn.Module | None, *, sharded: bool) -> None:
        self._sharded = sharded
        self._seen = model is not None and any(isinstance(m, DistributedDataParallel) for m in model.modules())
        self._handle: Any = None
        if model is not None and not sharded and not self._seen:
            self._handle = model.register_forward_pre_hook(ModelHook(self._look))

    def makes_final(self) -> bool:
        """Whether gradients of this process may have been written to by an engine, also without a trace."""
        return self._sharded or processes() > 1

    def unseen(self) -> bool:
        """Whether several processes train and no engine was seen to average their gradients."""
        return processes() > 1 and not self._sharded and not self._seen

    def close(self) -> None:
        if self._handle is not None:
            self._handle.remove()

    def _look(self, *_: Any) -> None:
        if DistributedDataParallel._get_active_ddp_module() is not None:
            self._seen = True
            self.close()
