"""Engines, with a loop in plain PyTorch."""

from __future__ import annotations

from typing import Any

from .case import AUTO, BOTH, REFUSED, SAID, WORKS, Case


def cases() -> list[Case]:
    one = [
        _case("compile", "torch.compile, before the selector", modes=("auto", "gate")),
        _case("compile-after", "torch.compile, after the selector", modes=("gate",), right=(*WORKS, *SAID)),
        _case("compile-blocks", "torch.compile of each block", modes=("gate",)),
        _case("compiled-autograd", "compiled autograd", modes=("gate",)),
        _case("checkpoint", "activation checkpointing", modes=BOTH),
        _case("copies", "AveragedModel and deepcopy in the loop", modes=BOTH),
        _case("scaler", "GradScaler", modes=BOTH),
    ]
    two = [
        _case("ddp", "DDP", processes=2),
        _case("ddp-unused", "DDP, find_unused_parameters", processes=2, modes=BOTH),
        _case("ddp-static", "DDP, static_graph", processes=2),
        _case("ddp", "DDP", name="engine-ddp-freeze", processes=2, modes=("freeze",), right=REFUSED),
        _case("fsdp1", "FSDP1", processes=2, right=REFUSED),
        _case("fsdp2", "FSDP2", processes=2, modes=BOTH),
        _case("fsdp2-bf16", "FSDP2, bfloat16", processes=2),
        _case("zero-redundancy", "ZeroRedundancyOptimizer", processes=2, right=(*WORKS, *SAID)),
        _case("alone", "two processes that share nothing", processes=2, modes=("gate",), right=SAID),
        _case(
            "pipeline",
            "pipeline (torch.distributed.pipelining)",
            processes=2,
            modes=("gate",),
            alike=False,
            right=(*WORKS, *SAID),
        ),
        _case("tensor", "tensor parallel", processes=2, modes=("gate",), right=(*WORKS, *SAID)),
    ]
    return [*one, *two, _cuda_graphs()]


def _case(program: str, engine: str, *, name: str = "", processes: int = 1, **rest: Any) -> Case:
    return Case(
        name=name or f"engine-{program}",
        section="Engines",
        program="engines",
        arguments=(program,),
        engine=engine,
        launcher="torchrun" if processes > 1 else "",
        processes=processes,
        **{"modes": AUTO, **rest},
    )


def _cuda_graphs() -> Case:
    return Case(
        name="engine-cuda-graphs", section="Engines", program="engines", engine="CUDA graphs", untried="it wants a GPU"
    )
