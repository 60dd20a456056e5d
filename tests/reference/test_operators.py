"""The two operations as operators of torch: compiled, traced with fake tensors, with and without the compiled core."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from layerselect import ops, reference
from layerselect.reference import operators
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

SEGMENTS = torch.tensor([1, 0, 1, 2])


def tensors() -> list[Tensor | None]:
    return [torch.randn(7, 5), None, torch.randn(70_001).to(torch.bfloat16), torch.randn(6, 4, dtype=torch.float64).t()]


def split_arguments(layers: int = 12) -> tuple[object, ...]:
    status = torch.ones(layers, dtype=torch.uint8)
    status[3], status[5] = 0, 2
    return torch.rand(layers), status, 0.35, 0.65, True, 2


@pytest.mark.parametrize("inv_scale", [None, 0.25])
def test_torch_checks_the_sums(inv_scale):
    torch.library.opcheck(torch.ops.layerselect.segment_sqnorm.default, (tensors(), SEGMENTS, 3, inv_scale))


def test_torch_checks_the_split():
    torch.library.opcheck(torch.ops.layerselect.variance_split.default, split_arguments())


def test_results_never_require_gradients():
    scores = torch.rand(6, requires_grad=True)
    parameter = torch.randn(40, requires_grad=True)
    sums = torch.ops.layerselect.segment_sqnorm([parameter], torch.tensor([0]), 1)
    mask, threshold = torch.ops.layerselect.variance_split(scores, torch.ones(6, dtype=torch.uint8), 0.0, 1.0, True, 1)
    assert not (sums.requires_grad or mask.requires_grad or threshold.requires_grad)


def test_they_compile_without_a_break():
    def measured(gradients: list[Tensor], scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sums = ops.segment_sqnorm([g * scale for g in gradients], [0, 1, 2, 2], 3, inv_scale=0.5)
        mask, threshold = ops.variance_split(sums.sqrt(), window=(0.0, 1.0))
        return sums, mask, threshold

    gradients = [torch.randn(n, 8) for n in (3, 5, 7, 9)]
    expected = measured(gradients, torch.tensor(2.0))
    compiled = torch.compile(measured, fullgraph=True, backend="aot_eager")(gradients, torch.tensor(2.0))
    for one, other in zip(compiled, expected, strict=True):
        assert torch.equal(one, other)


def test_fake_tensors_have_the_shapes_types_and_devices_of_real_ones():
    with FakeTensorMode():
        on_gpu = [torch.empty(3, 4, device="cuda"), None]
        sums = torch.ops.layerselect.segment_sqnorm(on_gpu, torch.tensor([0, 1]), 5)
        mask, threshold = torch.ops.layerselect.variance_split(
            torch.empty(9, device="cuda"), torch.empty(9, dtype=torch.uint8, device="cuda"), 0.0, 1.0, True, 1
        )
    assert (sums.shape, sums.dtype, sums.device.type) == ((5,), torch.float64, "cuda")
    assert (mask.shape, mask.dtype, mask.device.type) == ((9,), torch.bool, "cuda")
    assert (threshold.shape, threshold.dtype, threshold.device.type) == ((), torch.float32, "cuda")


def test_meta_tensors_run():
    sums = torch.ops.layerselect.segment_sqnorm([torch.empty(3, device="meta")], torch.tensor([0]), 2)
    assert sums.device.type == "meta" and sums.shape == (2,)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="segments has 1 entries for 2 tensors"):
        torch.ops.layerselect.segment_sqnorm([torch.ones(2), torch.ones(2)], torch.tensor([0]), 1)
    with pytest.raises(ValueError, match=r"scores\[1\] is nan"):
        torch.ops.layerselect.variance_split(
            torch.tensor([1.0, float("nan")]), torch.ones(2, dtype=torch.uint8), 0.0, 1.0, True, 1
        )


def test_on_a_device_the_sums_are_the_same(native):
    """The way of a GPU, on the CPU with the twins of its kernels."""
    many = [torch.randn(n) for n in (1, 5000, 70_000, 3)] * 130  # more than one launch takes
    segments = torch.arange(len(many)) * 7 % 11
    expected = reference.segment_sqnorm(many, segments, 13)
    for scale in (None, 0.5):
        sums = native.segment_sqnorm_on_device(many, segments, 13, scale)
        torch.testing.assert_close(sums, expected * (scale or 1.0) ** 2, rtol=1e-6, atol=0.0)
    mixed = tensors()
    sums = native.segment_sqnorm_on_device(mixed, SEGMENTS, 4, None)
    torch.testing.assert_close(sums, reference.segment_sqnorm(mixed, SEGMENTS, 4), rtol=1e-6, atol=0.0)
    assert native.segment_sqnorm_on_device([None], torch.tensor([0]), 2, None).tolist() == [0.0, 0.0]


def test_without_a_core_the_same_operators_are_there(environment):
    """In a process in which the core cannot be imported."""
    program = """
import sys
sys.modules["layerselect._C"] = None
import torch
from layerselect import ops
from layerselect.reference import operators
for name, schema in operators.SCHEMAS.items():
    print(getattr(torch.ops.layerselect, name).default._schema)
sums = torch.ops.layerselect.segment_sqnorm([torch.full((3,), 2.0, requires_grad=True), None], torch.tensor([1, 0]), 2)
print(sums.tolist(), sums.requires_grad)
split = torch.compile(lambda x: ops.variance_split(x)[0] & True, fullgraph=True, backend="eager")
print(split(torch.arange(6.0)).tolist())
"""
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    *schemas, sums, mask = done.stdout.splitlines()
    assert schemas == [str(getattr(torch.ops.layerselect, name).default._schema) for name in operators.SCHEMAS]
    assert sums == "[0.0, 12.0] False"
    assert mask == str(ops.variance_split(torch.arange(6.0))[0].tolist())
