"""Compiles every kernel for every architecture, warnings as errors, and prints what each one takes.

    python tools/cuda_check.py [--nvcc PATH] [--arch 80 90]

Fails if a kernel spills registers or keeps anything in local memory, or does not compile. Needs no GPU.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CSRC = Path(__file__).parents[1] / "csrc"
ARCHITECTURES = (80, 86, 89, 90, 100, 120)
# The flags that torch's extension builder passes: the kernels must not lean on what it forbids.
FLAGS = (
    "-std=c++20",
    "-O3",
    "-lineinfo",
    "-Werror",
    "all-warnings",
    "-Xptxas",
    "-v,-warn-spills,-warn-lmem-usage",
    "-D__CUDA_NO_HALF_OPERATORS__",
    "-D__CUDA_NO_HALF_CONVERSIONS__",
    "-D__CUDA_NO_BFLOAT16_CONVERSIONS__",
    "-D__CUDA_NO_HALF2_OPERATORS__",
    "--expt-relaxed-constexpr",
    "-Xcompiler",
    "-fPIC,-Wall,-Wextra",
)
_KERNEL = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)' for 'sm_(?P<arch>\d+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


def compile_kernels(nvcc: str, source: Path, architectures: list[int], target: Path) -> str:
    """What the compiler says. Raises subprocess.CalledProcessError if it fails."""
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    command = [nvcc, "-c", *FLAGS, *targets, str(source), "-o", str(target)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def rows_of(messages: str) -> list[dict[str, str | int]]:
    """One row for each kernel and architecture."""
    rows = []
    for match in _KERNEL.finditer(messages):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        rows.append(
            {
                "kernel": match["kernel"],
                "arch": int(match["arch"]),
                "registers": int(match["registers"]),
                "shared": int(shared[1]) if shared else 0,
                "spills": int(match["stack"]) + int(match["stores"]) + int(match["loads"]),
            }
        )
    return rows


def table_of(rows: list[dict], architectures: list[int]) -> str:
    """Kernels down, architectures across: registers, and shared bytes (the same on each)."""
    lines = [f"{'registers':34}" + "".join(f"{f'sm_{a}':>8}" for a in architectures) + f"{'shared':>9}{'spills':>8}"]
    for kernel in sorted({row["kernel"] for row in rows}):
        mine = {row["arch"]: row for row in rows if row["kernel"] == kernel}
        cells = "".join(f"{mine[a]['registers'] if a in mine else '-':>8}" for a in architectures)
        shared = max(row["shared"] for row in mine.values())
        lines.append(f"{kernel:34}{cells}{shared:>7} B{max(row['spills'] for row in mine.values()):>6} B")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nvcc", default=os.environ.get("NVCC") or shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc")
    parser.add_argument("--arch", type=int, nargs="+", default=list(ARCHITECTURES))
    options = parser.parse_args()
    if shutil.which(options.nvcc) is None:
        sys.stderr.write(
            f"cuda-check: there is no CUDA compiler {options.nvcc!r}: install the CUDA toolkit or set NVCC\n"
        )
        return 2
    started = time.monotonic()
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        for source in sorted(CSRC.glob("cuda/*.cu")):
            try:
                rows += rows_of(compile_kernels(options.nvcc, source, options.arch, Path(folder, "kernel.o")))
            except subprocess.CalledProcessError as error:
                sys.stderr.write(f"cuda-check: {source.name} does not compile:\n{error.stdout}{error.stderr}")
                return 1
    sys.stdout.write(table_of(rows, options.arch) + f"\n{time.monotonic() - started:.0f} s\n")
    spilling = sorted({f"{row['kernel']} (sm_{row['arch']})" for row in rows if row["spills"]})
    missing = {row["arch"] for row in rows} ^ set(options.arch)
    if spilling or missing or not rows:
        sys.stderr.write(f"cuda-check: spills in {spilling or 'none'}; no kernels for {sorted(missing) or 'none'}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
