"""What of a model's engine shows only when training begins."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..distributed.engines import check_ddp, ddp_in, has_shards, processes
from ..errors import LayerSelectError
from ..layers.model_hooks import ModelHook
from .freeze import LayerFreezer


class EngineWatch:
    """Notices what a selector could not know of its model's engine when it was built.

    Where several processes train and the model was given without its engine, mode ``freeze`` freezes nothing before the
    first forward pass that training makes, since ``DistributedDataParallel`` never averages what it finds frozen when
    it is built. That pass shows whether it runs the model.

    Args:
        model: the selector's.
        freezer: the selector's; held back until the engine was seen.
        mode, capture: the selector's.
    """

    def __init__(self, model: nn.Module, freezer: LayerFreezer, *, mode: str, capture: str) -> None:
        self._processes = processes()
        self._any_will_do = mode != "freeze" and capture == "step"
        self._freezer = weakref.ref(freezer)
        self._under_ddp: bool | None = None  # None: not seen yet
        self._handle: Any = None
        if mode == "freeze" and self._processes > 1 and ddp_in(model) is None and not has_shards(model):
            freezer.hold()
            self._handle = model.register_forward_pre_hook(ModelHook(self._look))

    def check(self) -> None:
        """To be called when gradients have been computed.

        Raises:
            LayerSelectError: they were computed in no forward pass of the model, or the process group is newer than the
                selector, which was then built for a process that is alone.
        """
        if self._processes != processes() and not self._any_will_do:
            raise LayerSelectError(
                "the process group was set up after the selector was built: build the selector after "
                "init_process_group()"
            )
        if self._handle is not None and self._under_ddp is None:
            raise LayerSelectError(
                f"mode='freeze' has to see the forward passes of the model where {self._processes} processes train "
                "together, and there was none: give the selector the module that the training calls, or use mode='gate'"
            )

    def close(self) -> None:
        if self._handle is not None:
            self._handle.remove()

    def _look(self, module: nn.Module, args: Any) -> None:
        ddp = DistributedDataParallel._get_active_ddp_module()
        if ddp is not None:
            check_ddp(ddp)
            if self._under_ddp is False:
                raise LayerSelectError(
                    "the model was wrapped in DistributedDataParallel after layers of it had been frozen, and these "
                    "would not be averaged: wrap it first, then build the selector"
                )
            self._under_ddp = True
        elif self._under_ddp is None and torch.is_grad_enabled():
            self._under_ddp = False
        freezer = self._freezer()
        if freezer is not None and self._under_ddp is not None:
            freezer.release()
