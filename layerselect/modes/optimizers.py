"""Which optimizers a selection can govern, and whether they hold what they should."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..distributed.foreign_engines import check_optimizer
from ..errors import LayerSelectError

#: Modules whose wrappers do no more than pass the call on, at the right time.
_PASS_ON = re.compile(r"(accelerate|lightning|lightning_fabric|pytorch_lightning)\.")
#: Wrappers that have hooks of their own and divide the work, but not the parameters' gradients: they are gated as they
#: are.
_WHOLE = {"ZeroRedundancyOptimizer", "OSS"}
#: Names of optimizers that move weights beside the step of the one inside, where the class says nothing else.
_MOVERS = re.compile(r"look_?ahead|(^|[a-z_])SAM($|[A-Z_])|sharpness|schedule_?free|swa($|[A-Z_])", re.IGNORECASE)


def unwrap_optimizer(optimizer: Any, *, governs: bool = True) -> torch.optim.Optimizer:
    """The optimizer whose ``step()`` moves the weights, without the wrappers that only pass the call on.

    Those of ``accelerate``, Lightning and Fabric do, and so may an object that is no ``Optimizer`` but has one (a
    schedule that calls ``self.optimizer.step()``). A ``torch.optim.Optimizer`` around another is there to do something
    of its own.

    Args:
        optimizer: what the training loop steps.
        governs: whether a selection is to decide what it may move; otherwise no wrapper does harm.

    Raises:
        LayerSelectError: it is no optimizer, one that may move weights in ways a selection has no say in, or one that
            steps where no gate can be.
    """
    outer = optimizer
    while True:
        if governs:
            check_optimizer(outer)
        inner = dict(_inside(outer))
        if isinstance(outer, torch.optim.Optimizer) and (not inner or type(outer).__name__ in _WHOLE):
            return _with_hooks(outer)
        next_one = _passed_on(outer, inner)
        if next_one is None and inner:
            if governs:
                raise LayerSelectError(_refusal(outer, inner))
            if len(inner) > 1 and isinstance(outer, torch.optim.Optimizer):
                return _with_hooks(outer)
            next_one = next(iter(inner.values()))
        if next_one is None:
            kind = type(optimizer)
            raise LayerSelectError(f"attach() needs a torch.optim.Optimizer, not {kind.__module__}.{kind.__qualname__}")
        outer = next_one


def check_parameters(optimizers: Sequence[torch.optim.Optimizer], expected: Sequence[tuple[str, nn.Parameter]]) -> None:
    """Demands that the optimizers hold every trainable parameter: one that is missing would never train,
    however often its layer is selected.

    Raises:
        LayerSelectError: naming how many are missing and the first of them.
    """
    held = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    known = set(map(id, held))
    missing = [(name, parameter) for name, parameter in expected if id(parameter) not in known]
    if not missing:
        return
    name, first = missing[0]
    copies = [p for p in held if p.shape == first.shape and p.dtype == torch.float32 != first.dtype]
    if len(missing) == len(expected) and copies:
        raise LayerSelectError(
            f"the optimizer holds float32 copies of the {len(expected)} trainable parameters (master weights, as "
            "apex's O2 and FP16_Optimizer keep them) and none of the parameters, so no layer can be left out of its "
            "step: train with torch.autocast and, for float16, torch.amp.GradScaler, which keep the parameters "
            "themselves in float32"
        )
    raise LayerSelectError(
        f"the optimizer lacks {len(missing)} of the {len(expected)} trainable parameters, first {name!r}: build "
        "it from selector.trainable_parameters() (or hand all optimizers to one attach call)"
    )


def _with_hooks(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    if not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        raise LayerSelectError(
            f"{type(optimizer).__name__} was built without Optimizer.__init__(), so its step() runs no hooks and "
            "cannot be gated: call super().__init__(params, defaults) in it"
        )
    return optimizer


def _passed_on(outer: Any, inner: Mapping[str, torch.optim.Optimizer]) -> torch.optim.Optimizer | Any | None:
    """What ``outer`` passes ``step()`` on to, as far as anybody can know; None if it does not, or has nothing to."""
    only = next(iter(inner.values())) if len(inner) == 1 else None
    if only is not None and any(_PASS_ON.match(f"{kind.__module__}.") for kind in type(outer).__mro__):
        return only
    if only is not None and getattr(vars(outer).get("step"), "__self__", None) is only:
        return only
    if isinstance(outer, torch.optim.Optimizer) or _moves(outer):
        return None
    # As wrappers of wrappers do, whose inside is no Optimizer either.
    return getattr(outer, "optimizer", None)


def _moves(outer: Any) -> bool:
    """Whether an object that is no ``Optimizer`` shows that it does more than to pass a step on."""
    own = ("first_step", "second_step", "eval", "sync_lookahead", "update_slow", "average_parameters")
    return any(callable(getattr(outer, name, None)) for name in own) or bool(_MOVERS.search(type(outer).__name__))


def _inside(outer: Any) -> Iterator[tuple[str, torch.optim.Optimizer]]:
    """The optimizers that ``outer`` keeps, by the name of the attribute."""
    seen: set[int] = set()
    for name, value in getattr(outer, "__dict__", {}).items():
        values = [value]
        if isinstance(value, (list, tuple)):
            values = list(value)
        elif isinstance(value, dict):
            values = list(value.values())
        for one in values:
            if isinstance(one, torch.optim.Optimizer) and one is not outer and id(one) not in seen:
                seen.add(id(one))
                yield (name if one is value else f"{name}[{len(seen) - 1}]"), one


def _refusal(outer: Any, inner: Mapping[str, torch.optim.Optimizer]) -> str:
    kinds = " and ".join(dict.fromkeys(type(one).__name__ for one in inner.values()))
    names = ", ".join(f"optimizer.{name}" for name in list(inner)[:3])
    if callable(getattr(outer, "first_step", None)):
        return (
            f"{type(outer).__name__} wraps {kinds} and steps in two calls, with weights of all layers moved in "
            f"between, where a selection has no say: train with {kinds} alone, or measure only, with mode='observe'"
        )
    return (
        f"{type(outer).__name__} wraps {kinds} and may move the weights of all layers in a step() of its own, where "
        f"a selection has no say: if it only passes the call on, attach what is inside (selector.attach({names})), "
        f"otherwise train with {kinds} alone, or measure only, with mode='observe'"
    )
