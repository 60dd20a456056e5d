"""Loss scales where layers are on several devices, and where several optimizers train them."""

from __future__ import annotations

import pytest
import torch
from layerselect import FastSelector
from layerselect.core import device_step
from layerselect.core import step as core_module
from layerselect.core.multi_device import SeveralDevicesCore
from torch.amp import GradScaler

from tests.cuda.scaled_runs import SKIPS, assert_same_run, train
from tests.helpers.models import plain, plain_loss
from tests.helpers.norms import gradient_norms


@pytest.fixture(autouse=True)
def device_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: True)


@pytest.mark.parametrize("score", ["l2", "rms"])
@pytest.mark.parametrize("capture", ["backward", "step"])
@pytest.mark.parametrize("mode", ["gate", "freeze"])
def test_layers_on_several_devices(mode, capture, score, monkeypatch):
    """One device divided in three; what is not finite on one skips the step on all."""
    settings = {"mode": mode, "capture": capture, "score": score, "probe_every": 5, "warmup": 2, "lag": 1}
    model, twin = plain(), plain()
    places = {id(p): 0 if n < 2 else 1 if n < 5 else 2 for n, b in enumerate(model.blocks) for p in b.parameters()}
    places |= {id(p): 2 for p in model.head.parameters()}
    with monkeypatch.context() as patch:
        patch.setattr(device_step, "_device_of", lambda parameter: places.get(id(parameter), 0))
        selector = FastSelector(model, "topk:k=3", **settings)
    assert isinstance(selector._core._core, SeveralDevicesCore)
    expected = FastSelector(twin, "topk:k=3", **settings)
    assert train(selector, model, SKIPS) == train(expected, twin, SKIPS)
    assert_same_run(selector, model, expected, twin)


def test_scores_of_several_optimizers_and_a_scale_that_is_no_power_of_two():
    model = plain()
    with FastSelector(model, mode="gate") as selector:
        parameters = selector.trainable_parameters()
        optimizers = [torch.optim.SGD(part, lr=0.1, fused=True) for part in (parameters[:9], parameters[9:])]
        selector.attach(*optimizers)
        scaler = GradScaler("cpu", init_scale=777.0)
        for attempt in range(3):
            plain_loss(model, attempt).backward()
            norms = gradient_norms(selector, model)
            model.zero_grad()
            scaler.scale(plain_loss(model, attempt)).backward()
            selector.step(scaler)
            assert selector.scores.tolist() == pytest.approx(norms, rel=1e-5)
            for optimizer in optimizers:
                scaler.step(optimizer)
            scaler.update()
            model.zero_grad()
