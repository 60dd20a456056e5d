"""What a norm pass must cost on a GPU, by arithmetic: bytes, launches and the time that both imply.

    python bench/cuda_on_paper.py        # prints the table of bench/README.md

Assumes an H100: 3.0 TB/s of copy bandwidth, 4 microseconds for a launch that waits for the one before it. No
measurement. `bench/measure_cuda.py` measures the same where there is a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

BANDWIDTH = 3.0e12  # bytes a second
LAUNCH = 4e-6  # seconds

HIDDEN, INNER, KEYS, LAYERS, VOCABULARY = 4096, 14336, 1024, 32, 128_256  # Llama 3 8B
MAPS = [(HIDDEN, HIDDEN), (HIDDEN, KEYS), (HIDDEN, KEYS), (HIDDEN, HIDDEN)] + [(HIDDEN, INNER)] * 2 + [(INNER, HIDDEN)]


@dataclass(frozen=True)
class Case:
    """Gradients: ``numels`` elements per tensor of ``size`` bytes."""

    name: str
    numels: list[int]
    size: int

    @property
    def bytes(self) -> int:
        return sum(self.numels) * self.size


def lora(size: int, name: str, rank: int = 16) -> Case:
    return Case(name, [rank * n for pair in MAPS for n in pair] * LAYERS, size)


def full(size: int, name: str) -> Case:
    layer = [a * b for a, b in MAPS] + [HIDDEN, HIDDEN]
    return Case(name, layer * LAYERS + [VOCABULARY * HIDDEN, VOCABULARY * HIDDEN, HIDDEN], size)


def divide_up(a: int, b: int) -> int:
    return -(-a // b)


def items(case: Case) -> int:
    """Work items of the plan in csrc/cuda/plan_cuda.cpp."""
    length = 16384
    while sum(case.numels) // length > 16384:
        length *= 2
    return sum(1 if n <= 4096 else divide_up(n, length) for n in case.numels)


def chunked(case: Case, tensors: int, blocks: int) -> int:
    """Launches of a multi-tensor pass over chunks of 65,536 elements with so many tensors and blocks at a time."""
    launches, in_launch, used = 0, 0, 0
    for n in case.numels:
        left = divide_up(n, 65536)
        if in_launch == tensors:
            launches, in_launch, used = launches + 1, 0, 0
        in_launch += 1
        while left:
            taken = min(left, blocks - used)
            used, left = used + taken, left - taken
            if used == blocks:
                launches, in_launch, used = launches + 1, 1 if left else 0, 0
    return launches + (1 if used else 0)


def rows(case: Case) -> list[tuple[str, int, int, str]]:
    """(method, bytes, launches that follow one another, remark)."""
    count = len(case.numels)
    ours = case.bytes + 24 * items(case) + 40 * count
    per_layer = 5  # stack, square, sum by layer, root, and the copy of a host index
    return [
        ('ours, `capture="step"`', ours, 1 if count <= 4000 else divide_up(count, 4000), "CUDA 13; selection included"),
        ("the same, CUDA 12", ours, divide_up(count, 432), "4 KiB of arguments; selection included"),
        (
            'ours, `capture="backward"`',
            ours,
            1,
            f"{LAYERS} more launches inside the backward pass, beside its own kernels",
        ),
        ("apex `multi_tensor_l2norm`", case.bytes, chunked(case, 110, 320) + 1 + per_layer, "then layers and rule"),
        ("`_foreach_norm`, CUDA 13", case.bytes, chunked(case, 770, 2240) + 1 + per_layer, "then layers and rule"),
        ("`.norm().item()` per parameter", case.bytes, 2 * count, "the host waits as often as there are parameters"),
    ]


def table() -> str:
    lines = [
        "| gradients | method | bytes | launches | bytes / 3.0 TB/s | launches x 4 us | sum | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in (lora(4, "LoRA r=16, fp32"), lora(2, "LoRA r=16, bf16"), full(2, "full, bf16")):
        for method, moved, launches, remark in rows(case):
            reading, launching = moved / BANDWIDTH * 1e6, launches * LAUNCH * 1e6
            lines.append(
                f"| {case.name} | {method} | {moved / 1e6:,.1f} MB | {launches:,} | {reading:,.0f} us | "
                f"{launching:,.0f} us | {reading + launching:,.0f} us | {remark} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
