"""Runs the tests of the compiled core with a sanitizer in it: reads and writes out of bounds, undefined behaviour,
races.

    python tools/sanitize.py address|thread [pytest options]

Compiles the core with gcc's or clang's runtime into build/sanitize/NAME, beside a copy of the package, and leaves the
core of the tree alone. Python and torch are not instrumented. Ends with an error if a test fails or the runtime reports
something.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# About the build, and starts compilers, which do not bear the preloaded runtime.
NOT_THE_CORE = {"test_ops_backend.py"}
SUPPRESSIONS = ROOT / "tools" / "tsan_suppressions.txt"


@dataclass(frozen=True)
class Sanitizer:
    """One way to compile and run.

    Attributes:
        checks: for ``-fsanitize=``.
        runtime: the library that must be loaded before anything else, since the program (Python) does not bring it.
        tests: patterns of files of tests.
        options: of the runtime, as environment variables.
    """

    checks: str
    runtime: str
    tests: tuple[str, ...]
    options: dict[str, str]


SANITIZERS = {
    "address": Sanitizer(
        checks="address,undefined",
        runtime="libasan.so",
        tests=("test_ops*.py", "test_hooks*.py", "test_gating.py"),
        options={
            # detect_leaks: CPython and torch keep what they allocated until the process ends, which is no leak of ours.
            # protect_shadow_gap: a driver of a GPU maps memory there.
            "ASAN_OPTIONS": "detect_leaks=0:protect_shadow_gap=0:strict_init_order=1:detect_stack_use_after_return=1",
            "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        },
    ),
    "thread": Sanitizer(
        checks="thread",
        runtime="libtsan.so",
        tests=("test_hooks*.py",),
        options={
            # report_bugs is on for what the suppressions leave; exitcode: pytest's own are 0 to 5.
            "TSAN_OPTIONS": f"suppressions={SUPPRESSIONS}:history_size=4:second_deadlock_stack=1:exitcode=66",
            # libgomp is not instrumented: how its threads wait for one another cannot be seen, and would all be races.
            "OMP_NUM_THREADS": "1",
        },
    ),
}


def runtime_path(name: str) -> str:
    """Where the compiler keeps a runtime library; ends the program if it does not."""
    compiler = os.environ.get("CXX", "c++").split()
    if shutil.which(compiler[0]) is None:
        sys.exit(f"sanitize: there is no C++ compiler {compiler[0]!r}: install g++, or set CXX")
    said = subprocess.run([*compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
    path = Path(said.strip())
    if not path.is_absolute():
        sys.exit(f"sanitize: {compiler[0]} has no {name}: install its sanitizer runtimes (they come with g++)")
    return str(path.resolve())


def build(name: str, checks: str) -> Path:
    """The folder with the package and its instrumented core."""
    base = ROOT / "build" / "sanitize" / name
    library = base / "lib"
    command = [sys.executable, "setup.py", "-q", "build", "--build-base", str(base), "--build-lib", str(library)]
    variables = {"LAYERSELECT_SANITIZE": checks, "LAYERSELECT_NATIVE": "1", "LAYERSELECT_CUDA": "0"}
    subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}, check=True, stdout=subprocess.DEVNULL)
    return library


def run(sanitizer: Sanitizer, library: Path, options: list[str]) -> int:
    """pytest's exit status, or the runtime's."""
    # libstdc++ beside it: the runtime looks for the functions that throw when it starts, and Python does not link them.
    preload = f"{runtime_path(sanitizer.runtime)} {runtime_path('libstdc++.so.6')}"
    variables = {"OMP_NUM_THREADS": "2", **sanitizer.options, "LD_PRELOAD": preload, "PYTHONPATH": str(library)}
    found = {path for pattern in sanitizer.tests for path in (ROOT / "tests").glob(pattern)}
    tests = sorted(str(path) for path in found if path.name not in NOT_THE_CORE)
    # Run in `library`, and the tree behind it: the package under test is the instrumented one.
    pytest = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "--capture=sys",
        "-c",
        str(ROOT / "pyproject.toml"),
    ]
    command = [*pytest, "--rootdir", str(ROOT), "--import-mode=append", *(options or tests)]
    if shutil.which("setarch"):
        command = [
            "setarch",
            platform.machine(),
            "-R",
            *command,
        ]  # the thread runtime wants addresses that do not wander
    return subprocess.run(command, cwd=library, env={**os.environ, **variables}).returncode


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in SANITIZERS:
        sys.exit(f"usage: python tools/sanitize.py {'|'.join(SANITIZERS)} [pytest options]")
    name, options = sys.argv[1], sys.argv[2:]
    sanitizer = SANITIZERS[name]
    started = time.monotonic()
    library = build(name, sanitizer.checks)
    built = time.monotonic()
    status = run(sanitizer, library, options)
    sys.stdout.write(
        f"sanitize: {sanitizer.checks}: {'nothing found' if status == 0 else f'ended with {status}'}; "
        f"compiled in {built - started:.0f} s, run in {time.monotonic() - built:.0f} s\n"
    )
    return status


if __name__ == "__main__":
    raise SystemExit(main())
