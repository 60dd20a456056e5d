"""Running a model on tokens, whatever is around it and whatever its architecture can be told."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from .holding import computing, device_of, holding_of


def run_tokens(model: nn.Module, ids: Tensor, mask: Tensor, *, keep: int = 0, **options: Any) -> Any:
    """The model's output for a batch; see :func:`layerselect.tasks.text.completions.forward_padded`."""
    base = base_of(model)
    known = _parameters(type(base))
    if "position_ids" in known:
        options["position_ids"] = positions(mask, ids.shape[1])
    if keep and "logits_to_keep" in known:
        options["logits_to_keep"] = keep
    if "use_cache" in known:
        # What nobody asks for takes memory, and some models (RWKV) then work in place on what gradients need.
        options.setdefault("use_cache", False)
    with computing(base):
        return model(input_ids=ids, attention_mask=mask, **options)


def positions(mask: Tensor, length: int) -> Tensor:
    """The positions of the last ``length`` tokens, int64: padding takes none."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -length:]


def takes(base: nn.Module, name: str) -> bool:
    """Whether the architecture's ``forward`` can be told ``name``."""
    return name in _parameters(type(base))


def unwrapped(model: nn.Module) -> nn.Module:
    """The model under a wrapper for several devices, or the model itself."""
    return model.module if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)) else model


def base_of(model: nn.Module) -> nn.Module:
    """The model under such a wrapper and under a ``peft`` adapter, or the model itself."""
    model = unwrapped(model)
    return model.get_base_model() if isinstance(model, PeftModel) else model


def placed(model: nn.Module, device: str | torch.device) -> nn.Module:
    """The model on a device, unless loading has put it on its own."""
    return model if holding_of(base_of(model)).places_itself else model.to(device)


@torch.no_grad()
def reads_ahead(model: nn.Module) -> bool:
    """Whether a token changes what the model says before it, as in an encoder; such a model cannot write."""
    size = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(8).remainder(size).repeat(2, 1)
    ids[1, -1] = (ids[1, -1] + 1) % size
    with computing(model):
        one, other = model(input_ids=ids.to(device_of(model))).logits.float()
    change = (one - other).abs()
    return bool(change[:-1].max() > holding_of(model).close * change[-1].max())


@functools.cache
def _parameters(architecture: type[nn.Module]) -> frozenset[str]:
    """What the architecture's ``forward`` can be told."""
    return frozenset(inspect.signature(architecture.forward).parameters)
