"""Clipping by the norm that was measured: as torch's own does in the same place, and without reading a gradient for
it.
"""

from __future__ import annotations

import math

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.core import device_step
from layerselect.core import step as core_module
from layerselect.core.multi_device import SeveralDevicesCore
from torch import nn
from torch.amp import GradScaler
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers.models import plain, plain_loss


@pytest.fixture(params=["host", "device"])
def decides(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, native) -> str:
    """Where the selection is made; a device's core runs on the CPU here."""
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: request.param == "device")
    return request.param


def clipped_by_torch(model: nn.Module, max_norm: float, left: set[int] | None = None) -> tuple[float, list]:
    """The norm and the gradients that ``torch.nn.utils.clip_grad_norm_`` would leave, from copies of the gradients.

    ``left``: only the gradients of these layers, and the outer ones, count for the norm."""
    copies = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    holders = {name: nn.Parameter(torch.zeros_like(g)) for name, g in copies.items()}
    for name, holder in holders.items():
        holder.grad = copies[name]
    layers = {name: int(name.split(".")[1]) if name.startswith("blocks") else None for name in copies}
    counted = [h for name, h in holders.items() if left is None or layers[name] is None or layers[name] in left]
    norm = torch.nn.utils.clip_grad_norm_(counted, max_norm)
    rest = [h for h in holders.values() if not any(h is c for c in counted)]
    torch.nn.utils.clip_grads_with_norm_(rest, max_norm, norm)
    return float(norm), copies


def assert_clipped(model: nn.Module, expected: dict[str, torch.Tensor]) -> None:
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert set(found) == set(expected)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=2e-6, atol=0.0, equal_nan=True)


@pytest.mark.parametrize("mode", ["observe", "gate", "freeze"])
@pytest.mark.parametrize("capture", ["backward", "step"])
@pytest.mark.parametrize("max_norm", [0.3, 1e3])
def test_as_torch_in_the_same_place(mode, capture, max_norm, decides):
    model = plain()
    selector = FastSelector(model, "topk:k=2", mode=mode, capture=capture, probe_every=3, warmup=1)
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2, fused=True)
    selector.attach(optimizer)
    for step in range(7):
        for micro in range(2):  # accumulated
            plain_loss(model, 2 * step + micro).backward()
        active = set(selector.trained())
        selector.step()
        scores = selector.scores.clone()
        left = set(selector.selected()) if mode == "freeze" else None
        norm, expected = clipped_by_torch(model, max_norm, left)
        returned = selector.clip_grad_norm_(max_norm)
        assert returned.dtype == torch.float64 and returned.shape == ()
        assert float(returned) == pytest.approx(norm, rel=1e-6)
        assert_clipped(model, expected)
        assert torch.equal(selector.scores, scores)
        if mode == "freeze" and decides == "host":  # what does not count is gone
            assert {int(n.split(".")[1]) for n in expected if n.startswith("blocks")} == left & active
        optimizer.step()
        optimizer.zero_grad()
    selector.close()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("when", ["never", "before the step", "after it"])
@pytest.mark.parametrize("mode", ["gate", "freeze"])
def test_scaled_gradients(mode, when, fused, decides):
    """Wherever the gradients are unscaled, the norm is that of the unscaled ones, and so is what the optimizer gets."""
    model, twin = plain(), plain()
    selector = FastSelector(model, "topk:k=2", mode=mode, lag=0)
    expected = FastSelector(twin, "topk:k=2", mode=mode, lag=0)
    optimizers = []
    for each in (selector, expected):
        optimizers.append(torch.optim.AdamW(each.trainable_parameters(), lr=1e-2, fused=fused))
        each.attach(optimizers[-1])
    scaler = GradScaler("cpu", init_scale=2.0**10)
    for step in range(5):
        scaler.scale(plain_loss(model, step)).backward()
        if when == "before the step":
            scaler.unscale_(optimizers[0])
        selector.step(scaler)
        if when == "after it":
            scaler.unscale_(optimizers[0])
        norm = selector.clip_grad_norm_(0.3)
        scaler.step(optimizers[0])
        scaler.update()
        plain_loss(twin, step).backward()
        expected.step()
        left = set(expected.selected()) if mode == "freeze" else None
        torch_norm, gradients = clipped_by_torch(twin, 0.3, left)
        assert float(norm) == pytest.approx(torch_norm, rel=1e-6)
        for name, p in twin.named_parameters():
            p.grad = gradients.get(name)
        optimizers[1].step()
        for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6, msg=name)
            q.data.copy_(p.detach())  # roundings shall not add up
        for optimizer in optimizers:
            optimizer.zero_grad()


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_norm_that_is_not_finite_does_what_it_does_in_torch(value, decides):
    """In mode ``observe``, in which all gradients are stepped; in the others test_gating_nonfinite.py has what is
    right.
    """
    model = plain()
    with FastSelector(model, "topk:k=2", mode="observe") as selector:
        handle = model.blocks[1][1].weight.register_hook(lambda g: g.index_fill(0, torch.tensor(0), value))
        plain_loss(model).backward()
        handle.remove()
        selector.step()
        norm, expected = clipped_by_torch(model, 1.0)
        assert not math.isfinite(norm)
        torch.testing.assert_close(float(selector.clip_grad_norm_(1.0)), norm, equal_nan=True)
        assert_clipped(model, expected)


@pytest.mark.parametrize("mode", ["gate", "freeze"])
def test_a_skipped_step_is_still_skipped_after_clipping(mode, decides):
    model = plain()
    selector = FastSelector(model, "topk:k=2", mode=mode, lag=0, probe_every=1)
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2, fused=True)
    selector.attach(optimizer)
    scaler = GradScaler("cpu", init_scale=2.0**10)
    for step in range(3):
        # In a layer that is not selected, too: the scaler must see it.
        chosen = next(i for i in range(6) if i not in selector.selected() or len(selector.selected()) == 6)
        handle = model.blocks[chosen][1].weight.register_hook(lambda g: g * math.inf) if step == 1 else None
        scaler.scale(plain_loss(model, step)).backward()
        before = [p.detach().clone() for p in model.parameters()]
        selected = selector.selected()
        selector.step(scaler)
        norm = selector.clip_grad_norm_(1.0)
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if handle is None:
            assert math.isfinite(float(norm)) and scaler.get_scale() == scale
            continue
        handle.remove()
        assert scaler.get_scale() < scale
        assert selector.selected() == selected
        assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
        assert not math.isfinite(float(selector.total_norm))


class Reads(TorchDispatchMode):
    """The operations that are given one of ``tensors``, or a list with one."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        super().__init__()
        self._places = {t.data_ptr() for t in tensors}
        self.found: list[str] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        flat = [t for a in args for t in (a if isinstance(a, (list, tuple)) else [a])]
        if any(isinstance(t, torch.Tensor) and t.data_ptr() in self._places for t in flat):
            self.found.append(str(operation))
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["gate", "freeze"])
def test_one_pass_over_the_gradients(mode, decides):
    model = plain()
    with FastSelector(model, "topk:k=2", mode=mode) as selector:
        plain_loss(model).backward()
        selector.step()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        with Reads(gradients) as reads:
            selector.clip_grad_norm_(1.0)
        assert reads.found == ["aten._foreach_mul_.Tensor"]
        with Reads(gradients) as reads:
            torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
        assert reads.found == ["aten._foreach_norm.Scalar", "aten._foreach_mul_.Tensor"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_and_mixed_ones(dtype, decides):
    model = plain()
    model.blocks[3].to(dtype)
    model.blocks[3].register_forward_pre_hook(lambda m, args: (args[0].to(dtype),))
    model.blocks[3].register_forward_hook(lambda m, args, out: out.float())
    with FastSelector(model, mode="observe") as selector:
        plain_loss(model).backward()
        selector.step()
        total = math.sqrt(math.fsum(float(p.grad.double().square().sum()) for p in model.parameters()))
        wanted = [p.grad.double() * (1e-3 / (total + 1e-6)) for p in model.parameters()]
        assert float(selector.clip_grad_norm_(1e-3)) == pytest.approx(total, rel=1e-6)
        for p, w in zip(model.parameters(), wanted, strict=True):
            # The coefficient is rounded to the type, and so is the product.
            torch.testing.assert_close(p.grad.double(), w, rtol=2.5 * torch.finfo(p.dtype).eps, atol=1e-7)
            assert p.grad.dtype == p.dtype


def test_layers_on_several_devices(monkeypatch):
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: True)
    model = plain()
    places = {id(p): n % 3 for n, block in enumerate(model.blocks) for p in block.parameters()}
    for mode, score in (("gate", "sqrt_sum"), ("freeze", "rms")):
        with monkeypatch.context() as patch:
            patch.setattr(device_step, "_device_of", lambda parameter: places.get(id(parameter), 2))
            selector = FastSelector(model, "topk:k=2", mode=mode, score=score, capture="step")
        assert isinstance(selector._core._core, SeveralDevicesCore)
        plain_loss(model).backward()
        selector.step()
        norm, expected = clipped_by_torch(model, 0.3, set(selector.selected()) if mode == "freeze" else None)
        assert float(selector.clip_grad_norm_(0.3)) == pytest.approx(norm, rel=1e-6)
        assert_clipped(model, expected)
        model.zero_grad()
        selector.close()


def test_out_of_place():
    model = plain()
    message = "call it once in a step, after selector.step.. and before optimizer.step"
    with FastSelector(model, mode="gate") as selector:
        plain_loss(model).backward()
        with pytest.raises(LayerSelectError, match=message):
            selector.clip_grad_norm_(1.0)  # before the first step
        selector.step()
        before = [p.grad.clone() for p in model.parameters()]
        for bad in (-1.0, math.nan, True, "1"):
            with pytest.raises(LayerSelectError, match="max_norm=.* is not a number of at least 0"):
                selector.clip_grad_norm_(bad)
        assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))
        selector.clip_grad_norm_(0.0)
        assert all(not p.grad.any() for p in model.parameters())
        with pytest.raises(LayerSelectError, match=message):
            selector.clip_grad_norm_(1.0)  # twice
        model.zero_grad()
        plain_loss(model).backward()
        selector.step()
        model.zero_grad()
        with pytest.raises(LayerSelectError, match=message):
            selector.clip_grad_norm_(1.0)  # nothing is there
        plain_loss(model).backward()
        with pytest.raises(LayerSelectError, match=message):
            selector.clip_grad_norm_(1.0)  # of gradients that no step has measured
    with pytest.raises(LayerSelectError, match="was closed"):
        selector.clip_grad_norm_(1.0)
