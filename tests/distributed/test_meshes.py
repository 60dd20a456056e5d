"""Sums over processes that hold pieces, copies and both."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from layerselect.core.capture import StepCapture
from layerselect.core.cuda import CudaCore
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from tests.distributed import training
from tests.distributed.test_engines import check_run, check_same_in_all_processes
from tests.distributed.training import train

PROCESSES = 4

#: Shape and placements of each parameter: over one dimension of four processes, over two of two, or (None) not spread.
SPREAD: list[tuple[tuple[int, ...], list[Any] | None]] = [
    ((70, 66), [Shard(0)]),
    # In pieces of 2, 2, 1 and 0 rows, which the plans of the processes put in different places.
    ((5, 3000), [Shard(0)]),
    ((7, 130), [Replicate(), Shard(0)]),  # as in hybrid sharding
    ((6, 10), [Shard(0), Shard(1)]),  # as where FSDP meets tensor parallelism
    ((9,), [Replicate(), Replicate()]),
    ((11,), None),
    ((4, 4), [Shard(1), Replicate()]),
    ((0, 8), [Shard(0)]),
    ((8,), [Replicate(), Replicate()]),  # its gradient is not added up yet
]
UNFINISHED = 8
NUMBER = len(SPREAD)
GROUPS = [0, 0, 0, 0, 1, 1, 2, 3, 3]


def whole_gradient(number: int) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(SPREAD[number][0], generator=generator) * 3.0**number


def sharded_parameters() -> list[nn.Parameter]:
    line, square = init_device_mesh("cpu", (4,)), init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
    parameters = []
    for number, (shape, placements) in enumerate(SPREAD):
        value, gradient = torch.zeros(shape), whole_gradient(number)
        if placements is not None:
            mesh = line if len(placements) == 1 else square
            value = distribute_tensor(value, mesh, placements)
            gradient = unfinished(mesh) if number == UNFINISHED else distribute_tensor(gradient, mesh, placements)
        parameter = nn.Parameter(value)
        parameter.grad = gradient
        parameters.append(parameter)
    return parameters


def unfinished(mesh: DeviceMesh) -> DTensor:
    """Pieces that add up to the gradient."""
    share = (mesh.get_coordinate()[1] + 0.5) / 2
    return DTensor.from_local(whole_gradient(UNFINISHED) * share, mesh, [Replicate(), Partial()])


def sums(folder: Path) -> list[Tensor]:
    """Of the host in both backends, and of a device."""
    found = []
    for backend in ("native", "torch"):
        parameters = sharded_parameters()
        capture = StepCapture(parameters, GROUPS, backend)
        assert capture.finish() == [0, 1, 2, 3]
        found.append(capture.sqnorms.clone())
    core = CudaCore(sharded_parameters(), GROUPS, 4, score="rms", capture="step")
    assert core.step({"kind": "all"}, [True] * 4)
    assert core.launches == 2
    by_parameter = torch.zeros(NUMBER, dtype=torch.float64)
    by_parameter[core.state["order"]] = core.state["sqnorms"]
    order = core.state["order"].clone()
    return [*found, by_parameter, core.state["scores"].clone(), core.state["total_norm"].clone(), order]


def no_gradients(folder: Path) -> None:
    parameters = sharded_parameters()
    parameters[UNFINISHED].grad = None  # which to finish takes all processes, as every operation on it does
    if dist.get_rank() != 2:
        for parameter in parameters:
            parameter.grad = None
    for alone in (False, True):
        capture = StepCapture(parameters, GROUPS, "native")
        core = CudaCore(parameters, GROUPS, 4, capture="step")
        # Of what several processes hold whole, only the first one's gradient counts; what is empty is none.
        assert capture.finish() == ([] if alone else [0, 2])
        assert core.step({"kind": "all"}, [True] * 4) is not alone
        assert alone or core.state["scores"].isfinite().tolist() == [True, False, True, False]
        parameters[0].grad = None
        for parameter in parameters:
            parameter.grad = None


def hybrid(folder: Path) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    return train("fsdp2", rule="variance", steps=8, wrapping={"mesh": mesh})


def with_tensor_parallelism(folder: Path) -> dict[str, Any]:
    """The blocks' maps are cut in two dimensions, all else in one: two meshes."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))

    def wrap(engine: str, model: nn.Module, **options: Any) -> nn.Module:
        for block in model.blocks:
            parallelize_module(block, mesh["tensor"], {"1": ColwiseParallel(), "3": RowwiseParallel()})
            fully_shard(block, mesh=mesh["data"])
        return fully_shard(model, mesh=mesh["data"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "wrap", wrap)
        patch.setattr(training, "ranks", lambda: (mesh["data"].get_local_rank(), 2))
        return train("fsdp2", rule="variance", steps=8)


CHECKS = [sums, no_gradients, hybrid, with_tensor_parallelism]


def test_sums_are_those_of_the_whole_tensors(returned):
    expected = torch.tensor(
        [math.fsum((whole_gradient(i).double() ** 2).flatten().tolist()) for i in range(NUMBER)], dtype=torch.float64
    )
    first, *others = returned(sums)
    for found in first[:3]:
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0, check_dtype=False)
    numels = torch.tensor([math.prod(shape) for shape, _ in SPREAD], dtype=torch.float64)
    of_group = torch.nn.functional.one_hot(torch.tensor(GROUPS)).double()
    rms = ((expected @ of_group) / (numels @ of_group)).sqrt()
    torch.testing.assert_close(first[3], rms, rtol=1e-6, atol=0, check_dtype=False)
    torch.testing.assert_close(first[4], expected.sum().sqrt(), rtol=1e-6, atol=0, check_dtype=False)
    for other in others:
        assert all(map(torch.equal, first[:-1], other[:-1]))
    assert any(not torch.equal(first[-1], other[-1]) for other in others)


def test_a_process_without_gradients_goes_along(returned):
    returned(no_gradients)


@pytest.mark.parametrize("check", [hybrid, with_tensor_parallelism], ids=lambda check: check.__name__)
def test_runs_over_meshes_of_two_dimensions(returned, check):
    together = returned(check)
    check_same_in_all_processes(together)
    check_run(together[0], train("none", mode="gate", rule="variance", steps=8))
