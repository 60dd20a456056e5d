"""Engines of others that take ``.grad`` away, or step elsewhere than in ``optimizer.step()``.

A selector measures gradients where PyTorch leaves them, and governs the step that PyTorch's optimizers make. What
follows is recognised by its structure, so that nothing has to be imported to be refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LayerSelectError

_DEEPSPEED = (
    "DeepSpeed keeps and steps gradients in buffers of its own, so no layer can be measured or left out of a step: use "
    "DistributedDataParallel, or torch.distributed.fsdp.fully_shard where the model does not fit one device"
)
_MAIN_GRAD = (
    "the gradients are added up in param.main_grad (gradient accumulation fusion, as in Megatron and Transformer "
    "Engine) and never in param.grad, so no layer can be measured: switch that fusion off "
    "(gradient_accumulation_fusion=False, fuse_wgrad_accumulation=False) and train with DistributedDataParallel or "
    "fully_shard"
)
#: How to go on from the name of an optimizer.
IN_BACKWARD = (
    "steps inside the backward pass, parameter by parameter, before anybody can compare layers: build one optimizer "
    "from selector.trainable_parameters() and step it after selector.step()"
)
_MEGATRON = (
    "Megatron keeps gradients and the weights that it steps in buffers of its own, so no layer can be measured or "
    "left out of a step: train with DistributedDataParallel or fully_shard"
)
#: Parts of names that tell which adapter a parameter belongs to.
_ADAPTER = re.compile(
    r"(?:lora_\w+|hada_\w+|lokr_\w+|ia3_\w+|vera_\w+|oft_\w+|boft_\w+|randlora_\w+|adapter\w*)\.([\w-]+)"
)


def why_foreign(model: nn.Module) -> str | None:
    """Why no parameter of ``model`` keeps a gradient of its own, or none that an optimizer then uses; None if it
    does.
    """
    if any(_is_of(module, "deepspeed") for module in model.modules()):
        return _DEEPSPEED
    if any(_is_of(module, "megatron.core.distributed") for module in model.modules()):
        return _MEGATRON
    return _why_without(p for p in model.parameters() if p.requires_grad)


def check_optimizer(optimizer: Any) -> None:
    """Refuses what steps where no gate can be.

    Raises:
        LayerSelectError: naming it, and what works instead.
    """
    name = type(optimizer).__name__
    if isinstance(optimizer, torch.amp.GradScaler):
        raise LayerSelectError(
            "attach() needs the optimizer, not the GradScaler: attach(optimizer), and give the scaler to "
            "selector.step(scaler)"
        )
    if _is_of(optimizer, "deepspeed.runtime") or name == "DeepSpeedOptimizerWrapper":
        raise LayerSelectError(f"{name} is DeepSpeed's: {_DEEPSPEED}")
    if _is_of(optimizer, "megatron") or name.startswith("MegatronLM"):
        raise LayerSelectError(f"{name} is Megatron's: {_MEGATRON}")
    if callable(getattr(optimizer, "fused_backward", None)):  # LOMO and AdaLOMO
        raise LayerSelectError(f"{name} {IN_BACKWARD}")
    if hasattr(optimizer, "optimizer_dict") or hasattr(optimizer, "optim_map"):
        raise LayerSelectError(f"{name} stands for an optimizer of each parameter, which {IN_BACKWARD}")
    if hasattr(optimizer, "param_d2h_map"):
        raise LayerSelectError(
            f"{name} copies each gradient to the host inside the backward pass and steps the copies, so no layer can "
            "be left out of its step: use an optimizer that works with the gradients in place"
        )
    if hasattr(optimizer, "_amp_stash") and getattr(optimizer._amp_stash, "fp32_from_fp16_groups", None):
        raise LayerSelectError(
            f"apex keeps master weights for {name} and steps these, so no layer can be measured or left out: train "
            "with torch.autocast and, for float16, torch.amp.GradScaler"
        )


def explain_missing(model: nn.Module, followed: Sequence[tuple[str, nn.Parameter]], *, taken: bool) -> str:
    """Says in a sentence why none of the parameters that a selector follows has a gradient in its step.

    Args:
        model: the selector's.
        followed: their names and themselves.
        taken: whether gradients were gone when the backward pass ended that made them.
    """
    parameters = [p for _, p in followed]
    why = _why_without(parameters)
    if why is not None:
        return why
    ours = set(map(id, parameters))
    now = dict(model.named_parameters())
    if not any(id(p) in ours for p in now.values()):
        return (
            f"the {len(followed)} parameters that the selector follows, first {followed[0][0]!r}, have left the "
            "model, as merge_and_unload() or delete_adapter() makes them: build a new selector for the model as it "
            "is now"
        )
    others = [name for name, p in now.items() if p.requires_grad and id(p) not in ours]
    with_gradient = [name for name in others if now[name].grad is not None]
    if not any(p.requires_grad for p in parameters):
        before, since = _adapters(name for name, _ in followed), _adapters(others)
        active = sorted(since - before)
        if active:
            trains = f"adapter {', '.join(map(repr, active))} is active in their place (set_adapter)"
        elif others:
            trains = f"{others[0]!r} and others train in their place (another adapter, or requires_grad_())"
        else:
            trains = "no other parameter has it (no adapter is active, or somebody froze them)"
        return (
            f"the {len(followed)} parameters that the selector follows, first {followed[0][0]!r}, no longer have "
            f"requires_grad, and {trains}: give them requires_grad back, or build a new selector for what trains now"
        )
    if taken:
        return (
            "the gradients were gone at the end of the backward pass: something takes them there, as an optimizer "
            f"does that {IN_BACKWARD}"
        )
    if with_gradient:
        return (
            f"only parameters that the selector does not follow have gradients, first {with_gradient[0]!r} (another "
            "adapter, or parameters that were given requires_grad later): build a new selector for what trains now"
        )
    return (
        "no trainable parameter has a gradient: call selector.step() after loss.backward() and before "
        "optimizer.zero_grad()"
    )


def _why_without(parameters: Iterable[Tensor]) -> str | None:
    for parameter in parameters:
        if hasattr(parameter, "ds_id") or getattr(parameter, "_hp_mapping", None) is not None:
            return _DEEPSPEED
        if getattr(parameter, "main_grad", None) is not None:
            return _MAIN_GRAD
        if getattr(parameter, "_in_backward_optimizers", None):
            return f"an optimizer that torch.distributed.optim put on the parameters {IN_BACKWARD}"
    return None


def _adapters(names: Iterable[str]) -> set[str]:
    return {found.group(1) for name in names if (found := _ADAPTER.search(name))}


def _is_of(thing: object, package: str) -> bool:
    return any(f"{kind.__module__}.".startswith(f"{package}.") for kind in type(thing).__mro__)
