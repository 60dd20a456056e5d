"""Optimizers of all kinds, and what a gate must leave alone: for the tests of gates on the host and on devices."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

Build = Callable[[Iterable[Any]], torch.optim.Optimizer]


class UsersOwn(torch.optim.Optimizer):
    """Steps parameter by parameter, as ``move`` says."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.move(p, group, self.state[p])
        return loss

    def move(self, p: Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        raise NotImplementedError


class Lion(UsersOwn):
    """The sign of an interpolated momentum (Chen et al. 2023, arXiv 2302.06675), with decoupled decay."""

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, decay: float = 0.1) -> None:
        super().__init__(params, {"lr": lr, "decay": decay})

    def move(self, p: Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        m = state.setdefault("m", torch.zeros_like(p))
        p.data.mul_(1 - group["lr"] * group["decay"])  # through .data, which counts no version
        p.data.add_(torch.lerp(p.grad, m, 0.9).sign(), alpha=-group["lr"])
        m.lerp_(p.grad, 0.01)


class Growing(UsersOwn):
    """Keeps one more tensor from a parameter's third step on."""

    def __init__(self, params: Iterable[Any], lr: float = 1e-2) -> None:
        super().__init__(params, {"lr": lr})

    def move(self, p: Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        n = state.setdefault("n", torch.zeros((), device=p.device)).add_(1)
        m = state.setdefault("m", torch.zeros_like(p)).mul_(0.9).add_(p.grad)
        if float(n) > 2:
            m = state.setdefault("late", torch.zeros_like(p)).mul_(0.5).add_(m)
        p.sub_(m, alpha=group["lr"])


class Replacing(UsersOwn):
    """Writes nothing in place: weights and state are new tensors after every step."""

    def __init__(self, params: Iterable[Any], lr: float = 1e-2) -> None:
        super().__init__(params, {"lr": lr})

    def move(self, p: Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        state["n"] = state.get("n", torch.zeros((), device=p.device)) + 1
        state["m"] = 0.9 * state.get("m", torch.zeros_like(p)) + p.grad
        p.data = p.data - group["lr"] * state["m"]


class Counting(UsersOwn):
    """Counts its steps per group, not per parameter, and slows down with them."""

    def __init__(self, params: Iterable[Any], lr: float = 1e-2) -> None:
        super().__init__(params, {"lr": lr, "k": 0})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        for group in self.param_groups:
            group["k"] += 1
        return super().step(closure)

    def move(self, p: Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        m = state.setdefault("m", torch.zeros_like(p)).mul_(0.9).add_(p.grad)
        p.sub_(m, alpha=group["lr"] / group["k"])


class SharpnessAware(torch.optim.Optimizer):
    """SGD at the worst point nearby (Foret et al. 2021, arXiv 2010.01412): acts before its closure, and after it."""

    def __init__(self, params: Iterable[Any], lr: float = 1e-2, rho: float = 0.05) -> None:
        super().__init__(params, {"lr": lr, "rho": rho})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:
        parameters = [(group, p) for group in self.param_groups for p in group["params"]]
        for group, p in parameters:
            if p.grad is not None:
                self.state[p]["here"] = p.clone()
                p.add_(p.grad, alpha=group["rho"])
        self.zero_grad()
        with torch.enable_grad():
            loss = closure()
        for group, p in parameters:
            if p.grad is not None:
                p.copy_(self.state[p]["here"]).add_(p.grad, alpha=-group["lr"])
        return loss


def _transformers_adafactor(**options: Any) -> Build:
    def build(params: Iterable[Any]) -> torch.optim.Optimizer:
        from transformers.optimization import Adafactor

        return Adafactor(params, **options)

    return build


def _build(cls: type[torch.optim.Optimizer], **options: Any) -> Build:
    return lambda params: cls(params, **options)


_O = torch.optim
OPTIMIZERS: dict[str, Build] = {
    "sgd": _build(_O.SGD, lr=0.05, foreach=False),
    "sgd decay": _build(_O.SGD, lr=0.05, weight_decay=0.1),
    "sgd momentum": _build(_O.SGD, lr=0.05, momentum=0.9, weight_decay=0.1, foreach=False),
    "sgd momentum foreach": _build(_O.SGD, lr=0.05, momentum=0.9, weight_decay=0.1, foreach=True),
    "sgd momentum fused": _build(_O.SGD, lr=0.05, momentum=0.9, weight_decay=0.1, fused=True),
    "sgd nesterov": _build(_O.SGD, lr=0.05, momentum=0.9, nesterov=True, foreach=True),
    "sgd nesterov fused": _build(_O.SGD, lr=0.05, momentum=0.9, nesterov=True, fused=True),
    "sgd dampening": _build(_O.SGD, lr=0.05, momentum=0.9, dampening=0.5, foreach=True),
    "sgd dampening fused": _build(_O.SGD, lr=0.05, momentum=0.9, dampening=0.5, fused=True),
    "sgd fused": _build(_O.SGD, lr=0.05, fused=True),
    "adam": _build(_O.Adam, lr=1e-2, weight_decay=0.1, foreach=False),
    "adam foreach": _build(_O.Adam, lr=1e-2, weight_decay=0.1, foreach=True),
    "adam fused": _build(_O.Adam, lr=1e-2, weight_decay=0.1, fused=True),
    "adam amsgrad": _build(_O.Adam, lr=1e-2, amsgrad=True, foreach=False),
    "adam amsgrad foreach": _build(_O.Adam, lr=1e-2, amsgrad=True, foreach=True),
    "adam amsgrad fused": _build(_O.Adam, lr=1e-2, amsgrad=True, fused=True),
    "adamw": _build(_O.AdamW, lr=1e-2, weight_decay=0.1, foreach=False),
    "adamw foreach": _build(_O.AdamW, lr=1e-2, weight_decay=0.1, foreach=True),
    "adamw fused": _build(_O.AdamW, lr=1e-2, weight_decay=0.1, fused=True),
    "adafactor": _build(_O.Adafactor, lr=1e-2, weight_decay=0.1, foreach=False),
    "adafactor foreach": _build(_O.Adafactor, lr=1e-2, weight_decay=0.1, foreach=True),
    "transformers adafactor": _transformers_adafactor(weight_decay=0.1),
    "transformers adafactor beta1": _transformers_adafactor(lr=1e-2, relative_step=False, beta1=0.9),
    "rmsprop": _build(_O.RMSprop, lr=1e-3, weight_decay=0.1, foreach=False),
    "rmsprop foreach": _build(_O.RMSprop, lr=1e-3, weight_decay=0.1, foreach=True),
    "rmsprop centered momentum": _build(_O.RMSprop, lr=1e-3, momentum=0.5, centered=True, foreach=False),
    "rmsprop centered momentum foreach": _build(_O.RMSprop, lr=1e-3, momentum=0.5, centered=True, foreach=True),
    "adagrad": _build(_O.Adagrad, lr=1e-2, lr_decay=0.1, weight_decay=0.1, foreach=False),
    "adagrad foreach": _build(_O.Adagrad, lr=1e-2, lr_decay=0.1, weight_decay=0.1, foreach=True),
    "adagrad fused": _build(_O.Adagrad, lr=1e-2, lr_decay=0.1, weight_decay=0.1, fused=True),
    "nadam": _build(_O.NAdam, lr=1e-3, weight_decay=0.1, decoupled_weight_decay=True, foreach=False),
    "nadam foreach": _build(_O.NAdam, lr=1e-3, weight_decay=0.1, foreach=True),
    "radam": _build(_O.RAdam, lr=1e-2, weight_decay=0.1, foreach=False),
    "radam foreach": _build(_O.RAdam, lr=1e-2, weight_decay=0.1, foreach=True),
    "adamax": _build(_O.Adamax, lr=1e-2, weight_decay=0.1),
    "adadelta": _build(_O.Adadelta, weight_decay=0.1),
    "asgd": _build(_O.ASGD, lr=1e-2, lambd=0.01, t0=3.0, weight_decay=0.1),
    "rprop": _build(_O.Rprop, lr=1e-3),
    "lion": Lion,
    "growing": Growing,
    "replacing": Replacing,
}
#: Those whose fused kernels take a gate.
TAKE_A_GATE = [n for n in OPTIMIZERS if n.endswith("fused") and n.split()[0] != "adagrad" and "dampening" not in n]


def bits(value: Any) -> Any:
    """Comparable to the last bit: -0.0 is not 0.0, and NaN is NaN."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu()
        plain = plain.view(torch.int16) if plain.dtype == torch.bfloat16 else plain  # numpy knows no bfloat16
        return value.dtype, value.shape, plain.numpy().tobytes()
    return value


def everything_of(optimizer: torch.optim.Optimizer | Alone, parameters: Iterable[nn.Parameter]) -> list[Any]:
    """The bits of each parameter and of its state. A fused gate gives a layer its state before its first step: zeros,
    which count as none.
    """
    found: list[Any] = []
    for parameter in parameters:
        state = optimizer.state.get(parameter) or {}
        fresh = all(isinstance(v, Tensor) and not v.any() for v in state.values())
        found.append((bits(parameter), {} if fresh else {key: bits(value) for key, value in state.items()}))
    return found


class Alone:
    """The oracle: an optimizer of its own for every parameter, which steps when the parameter has a gradient."""

    def __init__(self, build: Build, parameters: Iterable[nn.Parameter]) -> None:
        self._optimizers = [(p, build([p])) for p in parameters]

    @property
    def state(self) -> dict[nn.Parameter, Any]:
        return {p: optimizer.state.get(p) for p, optimizer in self._optimizers}

    def step(self) -> None:
        for parameter, optimizer in self._optimizers:
            if parameter.grad is not None:
                optimizer.step()


def copy_gradients(model: nn.Module, twin: nn.Module, layers: Iterable[int]) -> None:
    """Gives the twin the gradients of these ``blocks``, and those of all that is in no block."""
    left_out = {id(p) for i, block in enumerate(model.blocks) if i not in set(layers) for p in block.parameters()}
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        q.grad = None if p.grad is None or id(p) in left_out else p.grad.clone()
