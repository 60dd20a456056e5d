"""CudaCore: the step of a device, the same as the selector's own on the CPU."""

from __future__ import annotations

import pytest
import torch
from layerselect import FastSelector
from layerselect.core.cuda import CudaCore
from layerselect.core.scaling import Scaling
from layerselect.rules import All, CostAware, Fixed, Fraction, RandomLayers, Threshold, TopK, VarianceSplit
from torch import nn

from tests.helpers.models import plain, plain_loss

RULES = {
    "variance": lambda: VarianceSplit(),
    "topk": lambda: TopK(2),
    "fraction": lambda: Fraction(0.5),
    "threshold": lambda: Threshold(0.15),
    "all": lambda: All(),
    "fixed": lambda: Fixed([0, -1]),
    "budget": lambda: CostAware(0.8, VarianceSplit(), costs=[1.0, 0.95, 0.9, 0.75, 0.6, 0.5]),
    "budget without scores": lambda: CostAware(0.7, Fixed([0, -1, -2]), costs=[1.0, 0.95, 0.9, 0.75, 0.6, 0.5]),
}
LAYERS = 6


def loss_on(model: nn.Module, device: torch.device, seed: int) -> torch.Tensor:
    tokens = torch.randint(0, 64, (4, 8), generator=torch.Generator().manual_seed(seed)).to(device)
    return nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(-1, 1).flatten())


def core_of(model: nn.Module, **options) -> CudaCore:
    layers = [list(block.parameters()) for block in model.blocks]
    outer = [*model.embed.parameters(), *model.head.parameters()]
    groups = [i for i, layer in enumerate(layers) for _ in layer] + [LAYERS] * len(outer)
    return CudaCore([p for layer in layers for p in layer] + outer, groups, LAYERS, **options)


@pytest.mark.parametrize("capture", ["backward", "step"])
@pytest.mark.parametrize("name", RULES)
def test_steps_are_those_of_the_selector(device: torch.device, name: str, capture: str):
    score = {"backward": "l2", "step": "rms"}[capture]
    reference, model = plain(), plain().to(device)
    selector = FastSelector(
        reference, RULES[name](), mode="observe", warmup=2, interval=2, score=score, capture=capture, backend="native"
    )
    core = core_of(model, warmup=2, interval=2, score=score, capture=capture, history_rows=16)
    rule = selector.rule.kernel_options(LAYERS, device)
    for step in range(6):
        for each in (reference, model):
            each.zero_grad()
        plain_loss(reference, step).backward()
        loss_on(model, device, step).backward()
        selector.step()
        assert core.step(rule, [True] * LAYERS)
        assert core.launches == (LAYERS + 2 if capture == "backward" else 2)
        state = {key: value.cpu() for key, value in core.state.items()}
        torch.testing.assert_close(state["scores"], selector.scores, rtol=1e-5, atol=0)
        torch.testing.assert_close(state["total_norm"], selector.total_norm, rtol=1e-5, atol=0)
        assert torch.equal(state["mask"], selector.mask)
        assert torch.equal(state["frequency"], selector.frequency)
        for said in ("threshold", "kept_share", "step_cost"):
            expected = getattr(selector, said)
            torch.testing.assert_close(state[said], expected, rtol=1e-5, atol=0, equal_nan=True)
        assert torch.equal(state["gate"], torch.cat([1.0 - selector.mask.float(), torch.zeros(1)]))
    history = selector.history.arrays()
    assert core.state["history_step"][:6].tolist() == history["step"].tolist()
    assert core.state["history_mask"][:6].tolist() == history["mask"].tolist()
    core.close()


def test_what_is_not_finite_is_left_out_and_counted(device: torch.device):
    model = plain().to(device)
    core = core_of(model)
    loss_on(model, device, 0).backward()
    core.step({"kind": "all"}, [True] * LAYERS)
    before = core.state["scores"].clone()
    model.zero_grad()
    handle = model.blocks[2][1].weight.register_hook(lambda g: g * float("inf"))
    loss_on(model, device, 1).backward()
    handle.remove()
    core.step({"kind": "all"}, [True] * LAYERS)
    assert core.state["mask"].tolist() == [True, True, False, True, True, True]
    assert core.state["nonfinite"].tolist() == [0, 0, 1, 0, 0, 0]
    assert core.state["scores"][2] == before[2]
    assert core.state["scores"][3] != before[3]
    assert core.state["wanted"].tolist() == [True] * LAYERS


def test_a_frozen_layer_keeps_its_score_and_launches_nothing(device: torch.device):
    model = plain().to(device)
    core = core_of(model)
    loss_on(model, device, 0).backward()
    core.step({"kind": "all"}, [True] * LAYERS)
    held = core.state["scores"][1].clone()
    model.zero_grad()
    model.blocks[1].requires_grad_(False)
    loss_on(model, device, 1).backward()
    core.step({"kind": "top", "k": 1}, [i != 1 for i in range(LAYERS)])
    assert core.launches == LAYERS + 1
    assert core.state["scores"][1] == held
    squares = [p.grad.double().square().sum() for p in model.parameters() if p.grad is not None]
    torch.testing.assert_close(core.state["total_norm"], torch.stack(squares).sum().sqrt(), rtol=1e-6, atol=0)


def test_mixed_dtypes_and_strided_gradients(device: torch.device):
    shapes_and_dtypes = (((33, 65), torch.float32), ((128,), torch.bfloat16), ((5000,), torch.float16))
    parameters = [nn.Parameter(torch.zeros(s, dtype=d, device=device)) for s, d in shapes_and_dtypes]
    for p in parameters:
        p.grad = torch.randn(p.shape, device=device).to(p.dtype)
    parameters[0].grad = torch.randn(65, 66, device=device).t()[:33]  # neither dense nor in order
    core = CudaCore(parameters, [0, 1, 1], 2, capture="step")
    assert core.step({"kind": "all"}, [True, True])
    squares = [p.grad.double().square().sum() for p in parameters]
    expected = torch.stack([squares[0], squares[1] + squares[2]]).sqrt().float()
    torch.testing.assert_close(core.state["scores"], expected, rtol=1e-6, atol=0)


def test_inv_scale_and_skip(device: torch.device):
    model = plain().to(device)
    core = core_of(model, capture="step")
    loss_on(model, device, 0).backward()
    core.step({"kind": "all"}, [True] * LAYERS)
    plainly = core.state["scores"].clone()
    half, found = torch.tensor(0.5, device=device), torch.tensor(1.0, device=device)
    core.step({"kind": "all"}, [True] * LAYERS, Scaling(half))
    assert torch.equal(core.state["scores"], plainly * 0.5)
    core.step({"kind": "all"}, [True] * LAYERS, Scaling(half, unscaled=True))
    assert torch.equal(core.state["scores"], plainly)
    core.step({"kind": "top", "k": 1}, [True] * LAYERS, Scaling(half, found_inf=found))
    assert core.state["step"] == 3
    assert core.state["mask"].all()
    assert torch.equal(core.state["scores"], plainly)


@pytest.mark.parametrize("capture", ["backward", "step"])
@pytest.mark.parametrize("missed", [False, True])
def test_of_which_moment_the_sums_are(device: torch.device, missed: bool, capture: str):
    """Of the backward pass, whatever is written to them later, those of outer parameters included. The group of a
    gradient that was put in the place of another is summed anew, as it is then, and no other.
    """
    model = plain().to(device)
    core = core_of(model, capture=capture)
    for step, factor in enumerate((None, 0.25, None)):
        model.zero_grad()
        loss_on(model, device, step).backward()
        if missed:
            model.blocks[2][1].weight.grad = model.blocks[2][1].weight.grad.clone()
        squares = [
            sum(float(p.grad.double().square().sum()) for p in group.parameters())
            for group in (*model.blocks, nn.ModuleList([model.embed, model.head]))
        ]
        if factor is not None:
            torch._foreach_mul_([p.grad for p in model.parameters()], factor)
            squares = [s * factor**2 if missed and i == 2 else s for i, s in enumerate(squares)]
        assert core.written() == (missed or factor is not None)
        assert core.step({"kind": "all"}, [True] * LAYERS)
        assert core.launches == (LAYERS + 2 if capture == "backward" else 2) + missed
        assert core.state["group_sums"].tolist() == pytest.approx(squares, rel=1e-6)
        assert float(core.state["total_norm"]) == pytest.approx(sum(squares) ** 0.5, rel=1e-6)
        assert core.state["scores"].tolist() == pytest.approx([s**0.5 for s in squares[:-1]], rel=1e-6)


@pytest.mark.parametrize("unscaled_first", [False, True])
@pytest.mark.parametrize("capture", ["backward", "step"])
def test_norms_of_scaled_gradients(device: torch.device, capture: str, unscaled_first: bool):
    model = plain().to(device)
    core = core_of(model, capture=capture)
    loss_on(model, device, 0).backward()
    norms = [sum(float(p.grad.double().square().sum()) for p in block.parameters()) ** 0.5 for block in model.blocks]
    total = sum(float(p.grad.double().square().sum()) for p in model.parameters()) ** 0.5
    for rounds in range(2):
        model.zero_grad()
        (loss_on(model, device, 0) * 1024.0).backward()
        if unscaled_first:
            gradients = [p.grad for p in model.parameters()]
            torch._amp_foreach_non_finite_check_and_unscale_(
                gradients, torch.zeros((), device=device), torch.tensor(1 / 1024, device=device)
            )
        assert core.step(
            {"kind": "all"}, [True] * LAYERS, Scaling(torch.tensor(1 / 1024, device=device), unscaled_first)
        )
        assert core.state["step"] == rounds + 1
        assert core.state["scores"].tolist() == pytest.approx(norms, rel=1e-6)
        assert float(core.state["total_norm"]) == pytest.approx(total, rel=1e-6)


def test_without_a_gradient_nothing_happens(device: torch.device):
    for capture in ("backward", "step"):
        core = core_of(plain().to(device), capture=capture)
        assert not core.step({"kind": "all"}, [True] * LAYERS)
        assert core.state["step"] == 0


def test_a_host_rule_has_no_kernel():
    assert RandomLayers(2).kernel_options(LAYERS, torch.device("cpu")) is None


def test_bad_arguments_are_named(device: torch.device):
    with pytest.raises(ValueError, match="score is .l3."):
        core_of(plain().to(device), score="l3")
    core = core_of(plain().to(device))
    loss_on(plain().to(device), device, 0).backward()
    with pytest.raises(ValueError, match="active has 2 entries for 6 layers"):
        core._core.close_step(measured=[0], active=[True, True], kind="all")
    costs = torch.ones(2 * LAYERS + 1, dtype=torch.float64, device=device)
    close = {"measured": [0], "active": [True] * LAYERS, "kind": "all"}
    with pytest.raises(ValueError, match="costs must be 13 float64 numbers"):
        core._core.close_step(**close, costs=costs[1:])
    with pytest.raises(ValueError, match="costs must be 13 float64 numbers"):
        core._core.close_step(**close, costs=costs.float())
    with pytest.raises(ValueError, match="budget is 0"):
        core._core.close_step(**close, costs=costs, budget=0.0)
    with pytest.raises(ValueError, match="rule .lisa. is not one that the device knows"):
        core._core.close_step(measured=[0], active=[True] * LAYERS, kind="lisa")


def test_a_gradient_of_another_size_is_refused(device: torch.device):
    parameter = nn.Parameter(torch.zeros(4, device=device))
    core = CudaCore([parameter], [0], 1, capture="step")
    parameter.data = torch.zeros(5, device=device)
    parameter.grad = torch.ones(5, device=device)
    with pytest.raises(ValueError, match="build a new selector"):
        core.step({"kind": "all"}, [True])
