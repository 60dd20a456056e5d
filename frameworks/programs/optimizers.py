"""The README's loop with one optimizer after another: ``optimizers PACKAGE NAME``."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from layerselect import FastSelector
from torch import nn

from ..tiny import Plain, loss_of, tokens_of

STEPS = 8
#: Arguments that an optimizer of pytorch-optimizer cannot do without.
NEEDED = {
    "ranger21": {"num_iterations": STEPS},
    "bsam": {"num_data": 64},
    "adammini": {"num_embeds": 64, "num_heads": 4},
    "adashift": {"keep_num": 1},
}
#: Which want the graph of the backward pass kept, or a closure.
SECOND_ORDER = ("sophiah", "adahessian")
CLOSURES = ("bsam", "alig", "LBFGS", "SAM-closure")


def main(package: str, name: str, *, mode: str) -> None:
    model = Plain()
    selector = FastSelector(model, "topk:k=2", mode=mode, probe_every=3)
    parameters = selector.trainable_parameters()
    optimizers = MAKERS[package](name, model, parameters)
    selector.attach(*optimizers)
    for optimizer in optimizers:
        getattr(optimizer, "train", lambda: None)()  # schedule-free ones
    for step in range(STEPS):
        tokens = tokens_of(step)
        if hasattr(optimizers[0], "fused_backward"):
            optimizers[0].fused_backward(loss_of(model, tokens), 1e-3)
            selector.step()
            continue
        loss = loss_of(model, tokens)
        loss.backward(create_graph=name.lower() in SECOND_ORDER)
        selector.step()
        if name.startswith(("SAM", "GSAM", "WSAM", "FriendlySAM", "LookSAM")) and name not in CLOSURES:
            optimizers[0].first_step(zero_grad=True)
            loss_of(model, tokens).backward()
            optimizers[0].second_step(zero_grad=True)
            continue
        for optimizer in optimizers:
            if name in CLOSURES:
                optimizer.step(_closure(model, optimizer, tokens))
            else:
                optimizer.step()
        for optimizer in optimizers:
            optimizer.zero_grad()


def _closure(model: nn.Module, optimizer: torch.optim.Optimizer, tokens: torch.Tensor) -> Callable[[], Any]:
    @torch.enable_grad()
    def closure() -> Any:
        optimizer.zero_grad()
        loss = loss_of(model, tokens)
        loss.backward()
        return loss

    return closure


def _matrices(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The weights of the blocks' linear maps, and all else."""
    matrices = [p for name, p in model.named_parameters() if name.startswith("blocks") and p.dim() == 2]
    return matrices, [p for p in model.parameters() if all(p is not one for one in matrices)]


def _torch(name: str, model: nn.Module, parameters: list[nn.Parameter]) -> list[torch.optim.Optimizer]:
    """``NAME``, ``NAME-fused``, ``NAME-foreach`` or ``NAME-for-loop``."""
    name, _, how = name.partition("-")
    kind = getattr(torch.optim, name)
    if name == "Muon":
        matrices, others = _matrices(model)
        return [kind(matrices, lr=1e-2), torch.optim.AdamW(others, lr=1e-2)]
    options: dict[str, Any] = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    if "weight_decay" in inspect.signature(kind).parameters:
        options["weight_decay"] = 0.01
    options.update(
        {"fused": {"fused": True}, "foreach": {"foreach": True}, "for": {"foreach": False}}.get(
            how[:7].split("-")[0], {}
        )
    )
    if how == "capturable":
        options["capturable"] = True
    return [kind(parameters, lr=1e-2, **options)]


def _pytorch_optimizer(name: str, model: nn.Module, parameters: list[nn.Parameter]) -> list[Any]:
    import pytorch_optimizer as package

    if name in ("Lookahead", "OrthoGrad", "ScheduleFreeWrapper", "TRAC"):
        return [getattr(package, name)(torch.optim.AdamW(parameters, lr=1e-2))]
    if name in ("SAM", "SAM-closure", "FriendlySAM", "LookSAM"):
        return [getattr(package, name.split("-")[0])(parameters, torch.optim.AdamW, lr=1e-2)]
    if name == "WSAM":
        return [package.WSAM(model, parameters, torch.optim.AdamW, lr=1e-2)]
    if name in ("muon", "adamuon", "adago", "normuon", "muonclip"):
        muon = importlib.import_module("pytorch_optimizer.optimizer.muon")
        return [muon.prepare_muon_parameters(model, name, lr=1e-2, weight_decay=0.0)]
    kind = package.load_optimizer(name)
    if name in ("spectralsphere", "kron"):  # for matrices alone, and too slow for an embedding's
        matrices, others = _matrices(model)
        return [kind(matrices), torch.optim.AdamW(others, lr=1e-2)]
    takes_model = next(iter(list(inspect.signature(kind).parameters))) == "model"
    return [kind(model if takes_model else parameters, **NEEDED.get(name, {}))]


def _bitsandbytes(name: str, model: nn.Module, parameters: list[nn.Parameter]) -> list[Any]:
    options = {"momentum": 0.9} if name.startswith(("SGD", "LARS")) else {}
    return [getattr(importlib.import_module("bitsandbytes.optim"), name)(parameters, lr=1e-2, **options)]


def _torchao(name: str, model: nn.Module, parameters: list[nn.Parameter]) -> list[Any]:
    return [getattr(importlib.import_module("torchao.optim"), name)(parameters, lr=1e-2)]


def _transformers(name: str, model: nn.Module, parameters: list[nn.Parameter]) -> list[Any]:
    from transformers.optimization import Adafactor

    how = {"lr": 1e-2, "relative_step": False} if name == "Adafactor" else {"lr": None}
    return [Adafactor(parameters, scale_parameter=False, warmup_init=False, **how)]


def _others(name: str, model: nn.Module, parameters: list[nn.Parameter]) -> list[Any]:
    """Optimizers that are a package of their own."""
    if name.startswith("schedulefree."):
        return [getattr(importlib.import_module("schedulefree"), name.split(".")[1])(parameters, lr=1e-2)]
    if name == "prodigyopt.Prodigy":
        return [importlib.import_module("prodigyopt").Prodigy(parameters)]
    if name == "lion_pytorch.Lion":
        return [importlib.import_module("lion_pytorch").Lion(parameters, lr=1e-3)]
    if name == "adam_mini.Adam_mini":
        kind = importlib.import_module("adam_mini").Adam_mini
        return [kind(model.named_parameters(), lr=1e-2, dim=64, n_heads=4, verbose=False)]
    if name.startswith("lomo_optim."):
        return [getattr(importlib.import_module("lomo_optim"), name.split(".")[1])(model, lr=1e-3)]
    package, kind = name.split(".")
    matrices, rest = _matrices(model)
    low_rank = {"rank": 4, "update_proj_gap": 4, "scale": 0.25, "proj_type": "std"}
    if package == "apollo_torch":
        low_rank |= {"proj": "random", "scale_type": "channel"}
    if (
        kind == "layerwise"
    ):  # as GaLore's and APOLLO's authors do: an optimizer for each parameter, stepped in the backward pass
        return _layerwise(package, parameters, matrices, low_rank)
    groups = [{"params": rest}, {"params": matrices, **low_rank}]
    lr = None if kind == "GaLoreAdafactor" else 1e-2  # it finds its own
    return [getattr(importlib.import_module(package), kind)(groups, lr=lr)]


def _layerwise(package: str, parameters: list[nn.Parameter], matrices: list[nn.Parameter], low_rank: Any) -> list[Any]:
    kind = getattr(importlib.import_module(package), "GaLoreAdamW" if package == "galore_torch" else "APOLLOAdamW")
    ours = {id(p) for p in matrices}
    each = {p: kind([{"params": [p], **(low_rank if id(p) in ours else {})}], lr=1e-2) for p in parameters}

    def update(parameter: nn.Parameter) -> None:
        each[parameter].step()
        each[parameter].zero_grad()

    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(update)
    return list(each.values())


MAKERS: dict[str, Callable[[str, nn.Module, list[nn.Parameter]], list[Any]]] = {
    "torch": _torch,
    "pytorch-optimizer": _pytorch_optimizer,
    "bitsandbytes": _bitsandbytes,
    "torchao": _torchao,
    "transformers": _transformers,
    "others": _others,
}
