"""segment_sqnorm of both backends against float64."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from layerselect import LayerSelectError, ops, reference
from torch import Tensor

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
# Around every boundary of the kernel: turns of 64, blocks of 1,024, work items of 65,536.
SIZES = [0, 1, 2, 7, 8, 63, 64, 65, 127, 1000, 1023, 1024, 1025, 4097, 65535, 65536, 65537, 200_003]


def exact(tensors: list[Tensor | None], segments: list[int], num_segments: int) -> Tensor:
    sums = torch.zeros(num_segments, dtype=torch.float64)
    for tensor, segment in zip(tensors, segments, strict=True):
        if tensor is not None:
            sums[segment] += (tensor.double() ** 2).sum()
    return sums


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    assert actual.dtype == torch.float64 and actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=0.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_size(dtype, backend):
    tensors = [torch.randn(n).to(dtype) for n in SIZES]
    segments = list(range(len(SIZES)))
    sums = ops.segment_sqnorm(tensors, segments, len(SIZES), backend=backend)
    assert_close(sums, exact(tensors, segments, len(SIZES)), 1e-12 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_constant_values_do_not_drift(dtype, backend):
    # Equal addends round the same way every time: the case in which errors of a long float32 sum add up.
    values = [*torch.linspace(1, 2, 61).tolist(), 1 / 3, 7.7e-5]
    tensors = [torch.full((70_001,), value).to(dtype) for value in values]
    segments = list(range(len(tensors)))
    sums = ops.segment_sqnorm(tensors, segments, len(tensors), backend=backend)
    assert_close(sums, exact(tensors, segments, len(tensors)))


def test_a_value_in_each_position_counts_once(backend):
    values = torch.arange(1, 1100, dtype=torch.float32)
    sums = ops.segment_sqnorm(list(torch.diag(values)), list(range(1099)), 1099, backend=backend)
    assert torch.equal(sums, values.double() ** 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_16_bit_pattern(dtype, native):
    numbers = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(dtype)
    finite = numbers[torch.isfinite(numbers)]
    sums = native.segment_sqnorm(list(finite), torch.arange(len(finite)), len(finite), None)
    assert_close(sums, finite.double() ** 2)


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-30, 1e-20, 1e-12, 1e12, 1e18, 3e19, 1e38])
def test_the_whole_range_of_float32(scale, backend):
    tensor = (torch.rand(5000, dtype=torch.float64) * scale).to(torch.float32)
    tensors = [tensor, torch.cat([tensor, torch.zeros(3000)]), torch.cat([torch.randn(2048), tensor])]
    assert_close(ops.segment_sqnorm(tensors, [0, 1, 2], 3, backend=backend), exact(tensors, [0, 1, 2], 3))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_one_bad_element_spoils_its_segment_alone(value, dtype, backend):
    tensors = [torch.ones(3000).to(dtype) for _ in range(3)]
    tensors[1][2999] = value
    sums = ops.segment_sqnorm(tensors, [0, 1, 2], 3, backend=backend)
    assert sums[0] == sums[2] == 3000 and not torch.isfinite(sums[1])


def test_segments_in_any_order_mixed_dtypes_none_and_empty(backend):
    tensors = [
        torch.randn(100_000),
        None,
        torch.randn(33, 5).to(torch.bfloat16),
        torch.randn(0, 4),
        torch.randn(70_000, dtype=torch.float64),
        torch.randn(()).to(torch.float16),
        torch.randn(12, 12),
    ]
    segments = [3, 0, 1, 1, 0, 3, 1]
    sums = ops.segment_sqnorm(tensors, segments, 5, backend=backend)
    assert_close(sums, exact(tensors, segments, 5))
    assert sums[2] == 0 and sums[4] == 0


def test_nothing_at_all(backend):
    assert ops.segment_sqnorm([], [], 0, backend=backend).shape == (0,)
    assert ops.segment_sqnorm([], [], 3, backend=backend).tolist() == [0, 0, 0]
    assert ops.segment_sqnorm([None, None], [1, 1], 2, backend=backend).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_misaligned_views(dtype, backend):
    base = torch.randn(5000).to(dtype)
    tensors = [base[start : start + 3001] for start in range(18)]
    sums = ops.segment_sqnorm(tensors, range(18), 18, backend=backend)
    assert_close(sums, exact(tensors, list(range(18)), 18))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_strides(dtype, backend):
    base = torch.randn(40, 50, 6).to(dtype)
    tensors = [
        base.permute(2, 0, 1),
        base[::3, :, 1],
        base[:, 7:20],
        base[5, 5].expand(30, 6),
        base.transpose(0, 1)[3:, ::2],
        base.to(memory_format=torch.contiguous_format).unsqueeze(0).to(memory_format=torch.channels_last),
    ]
    sums = ops.segment_sqnorm(tensors, range(6), 6, backend=backend)
    assert_close(sums, exact(tensors, list(range(6)), 6))


def test_gradients_that_require_gradients(backend):
    x = torch.randn(30, requires_grad=True)
    (gradient,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    sums = ops.segment_sqnorm([gradient, gradient[::2]], [0, 1], 2, backend=backend)
    assert not sums.requires_grad
    assert_close(sums, exact([gradient.detach(), gradient.detach()[::2]], [0, 1], 2))


@pytest.mark.parametrize("inv_scale", [1.0, 2.0**-16, 1 / 3])
def test_inv_scale_multiplies_elements(inv_scale, backend):
    tensors = [torch.randn(1000), torch.randn(10)]
    expected = exact([t.double() * inv_scale for t in tensors], [0, 1], 2)
    assert_close(ops.segment_sqnorm(tensors, [0, 1], 2, inv_scale=inv_scale, backend=backend), expected)


def layout() -> tuple[list[Tensor], list[int]]:
    sizes = [300_000, 5, 65536, 70_001, 1, 999_999, 32768, 32768, 640]
    dtypes = [torch.float32, torch.bfloat16, torch.float16]
    return [torch.randn(n).to(dtypes[i % 3]) for i, n in enumerate(sizes)], [i % 4 for i in range(len(sizes))]


def test_the_same_bits_whatever_the_number_of_threads(backend):
    tensors, segments = layout()
    first = ops.segment_sqnorm(tensors, segments, 4, backend=backend)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for _ in range(10):
            copies = [t.clone() for t in tensors]  # other addresses
            assert torch.equal(ops.segment_sqnorm(copies, segments, 4, backend=backend), first)


def test_the_same_bits_with_every_instruction_set(native, environment):
    program = (
        "import torch; from layerselect import _C; torch.manual_seed(0)\n"
        "sizes = [1, 100, 1023, 5000, 65537]\n"
        "tensors = [torch.randn(n).to(d) for n in sizes for d in (torch.float32, torch.float16, torch.bfloat16)]\n"
        "sums = _C.segment_sqnorm(tensors, torch.arange(len(tensors)), len(tensors), None)\n"
        "print(_C.instruction_set(), [x.hex() for x in sums.tolist()])"
    )
    results = {}
    for wanted in ("", "baseline"):
        environment["LAYERSELECT_INSTRUCTION_SET"] = wanted
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        name, _, sums = done.stdout.partition(" ")
        results[name] = sums
    assert "baseline" in results
    assert len(set(results.values())) == 1, results


def test_both_backends_agree(native):
    tensors, segments = layout()
    compiled = native.segment_sqnorm(tensors, torch.tensor(segments), 4, 0.5)
    assert_close(compiled, reference.segment_sqnorm(tensors, torch.tensor(segments), 4, 0.5))


@pytest.mark.parametrize(
    ("tensors", "segments", "num_segments", "message"),
    [
        ([torch.ones(2)], [2], 2, r"segments\[0\] is 2; it must be in 0\.\.1"),
        ([torch.ones(2)] * 2, [0, -1], 2, r"segments\[1\] is -1"),
        ([torch.ones(2)], [0, 0], 1, "segments has 2 entries for 1 tensors"),
        ([torch.ones(2)], [0], -1, "num_segments is -1"),
        ([torch.ones(2), torch.ones(2, dtype=torch.int64)], [0, 0], 1, r"tensors\[1\] has dtype .*[lL]ong|int64"),
        ([torch.ones(2, dtype=torch.complex64)], [0], 1, r"tensors\[0\] has dtype .*[cC]omplex"),
        ([torch.eye(3).to_sparse()], [0], 1, r"tensors\[0\] has layout .*[sS]parse.*sparse=False"),
    ],
)
def test_errors_name_the_argument_and_the_value(tensors, segments, num_segments, message, backend):
    with pytest.raises(LayerSelectError, match=message):
        ops.segment_sqnorm(tensors, segments, num_segments, backend=backend)


@pytest.mark.parametrize("segments", [torch.zeros(1), torch.zeros(1, 1, dtype=torch.int64)])
def test_segments_must_be_an_int64_vector(segments, ops_of):
    with pytest.raises(ValueError, match="segments has (dtype|shape)"):
        ops_of.segment_sqnorm([torch.ones(1)], segments, 1, None)


def test_a_tensor_elsewhere_is_refused_by_the_compiled_core(native):
    with pytest.raises(ValueError, match=r'tensors\[1\] is on device meta.*backend="torch"'):
        native.segment_sqnorm_on_device(
            [torch.ones(2), torch.ones(2, device="meta")], torch.zeros(2, dtype=torch.int64), 1, None
        )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the core may be built for one thread")
def test_one_openmp_runtime_and_it_is_torchs(environment):
    """A second one would keep threads of its own, which spin against torch's."""
    program = """
import torch
before = {line.split()[-1] for line in open("/proc/self/maps") if "omp" in line.split()[-1].rsplit("/")[-1]}
import layerselect._C as core
after = {line.split()[-1] for line in open("/proc/self/maps") if "omp" in line.split()[-1].rsplit("/")[-1]}
torch.set_num_threads(2)
core.segment_sqnorm([torch.ones(1 << 20)], torch.tensor([0]), 1)
last = {line.split()[-1] for line in open("/proc/self/maps") if "omp" in line.split()[-1].rsplit("/")[-1]}
print(core.openmp, len(before), before == after == last)
"""
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "1", "True"]
