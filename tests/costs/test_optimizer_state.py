"""The state of optimizers as it is counted, beside the optimizers themselves."""

from __future__ import annotations

import pytest
import torch
from layerselect.costs.optimizer_state import known_optimizers, state_bytes
from layerselect.errors import LayerSelectError
from torch import nn


def _held(optimizer: torch.optim.Optimizer) -> int:
    # What several parameters share (tables of 8-bit numbers) counts once for all.
    values = {
        value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
        for state in optimizer.state.values()
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and not name.startswith("qmap")
    }
    return sum(values.values())


def _made(name: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if name.startswith("adamw_torch"):
        return torch.optim.AdamW(parameters)
    if name in ("sgd", "adagrad", "rmsprop"):
        kind = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad, "rmsprop": torch.optim.RMSprop}[name]
        return kind(parameters, lr=1e-3)
    if name == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(parameters, lr=1e-3, scale_parameter=False, relative_step=False)
    bitsandbytes = pytest.importorskip("bitsandbytes")
    bits = 8 if "8bit" in name else 32
    kind = bitsandbytes.optim.Lion if "lion" in name else bitsandbytes.optim.AdamW
    return kind(parameters, lr=1e-3, optim_bits=bits)


@pytest.mark.parametrize("name", known_optimizers())
def test_the_state_that_is_counted_is_there(name):
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape)) for shape in ((64, 96), (70, 100), (3, 5), (40,))]
    optimizer = _made(name, parameters)
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    try:
        optimizer.step()
    except (NotImplementedError, RuntimeError) as error:
        pytest.skip(f"no step of {name} on a CPU here: {error}")
    assert state_bytes(name, parameters) == pytest.approx(_held(optimizer), rel=0.02, abs=64)


def test_an_unknown_optimizer_is_named_with_those_that_are_known():
    with pytest.raises(LayerSelectError, match="galore_adamw.*adamw_torch"):
        state_bytes("galore_adamw", [])
