"""The compiled code of a step neither waits for the device nor allocates anything: proved from the sources."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


NATIVE_WAITS = re.compile(
    r"\.item(?:<\w+>)?\(|\.cpu\(|ynchronize\b|\bcudaMemcpy\w*\(|\bcudaMalloc|\bcudaFree|\.nonzero\(|\.equal\(|_local_scalar"
)
NATIVE_ALLOCATIONS = re.compile(r"at::(?:empty|zeros|ones|full)\b|\.to\(|\.clone\(|copy_\(")


def code_of(path: Path) -> str:
    return re.sub(r"//[^\n]*", "", path.read_text())


def body_of(code: str, name: str) -> str:
    """The text of the function ``name``, by its braces."""
    start = code.index(f"{name}(")
    at = code.index("{", code.index(")", start))
    depth = 0
    for i in range(at, len(code)):
        depth += {"{": 1, "}": -1}.get(code[i], 0)
        if depth == 0:
            return code[at:i]
    raise AssertionError(name)


def test_native_code_of_a_step_waits_for_nothing():
    files = [p for p in (ROOT / "csrc" / "cuda").iterdir() if p.suffix in (".cpp", ".cu", ".cuh", ".h")]
    for path in [*files, *(ROOT / "csrc").glob("hooks*.cpp")]:
        assert not NATIVE_WAITS.search(code_of(path)), path.name


def test_native_code_of_a_step_allocates_and_copies_nothing():
    core = "".join(code_of(ROOT / "csrc" / "cuda" / name) for name in ("core.cpp", "core_args.cpp", "core_build.cpp"))
    for name in (
        "launch_group",
        "launch_groups",
        "hold_all",
        "sum_held",
        "remember_launch",
        "set_sums",
        "close_step",
        "wait_for_launches",
        "select_args",
        "set_pointer",
    ):
        assert not NATIVE_ALLOCATIONS.search(body_of(core, f"DeviceCore::{name}")), name
    keeper = code_of(ROOT / "csrc" / "cuda" / "keeper.cpp")
    assert not NATIVE_ALLOCATIONS.search(body_of(keeper, "Keeper::run"))
    # Which also shows that the check can fail:
    assert NATIVE_ALLOCATIONS.search(body_of(core, "DeviceCore::DeviceCore"))
