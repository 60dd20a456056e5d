"""Builds what the tests execute: the kernels' PTX, and a library of the launchers over a runtime that is not there."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
HERE = Path(__file__).parent
# What torch passes when it compiles an extension: its kernels may not lean on implicit conversions.
TORCH_FLAGS = (
    "-D__CUDA_NO_HALF_OPERATORS__",
    "-D__CUDA_NO_HALF_CONVERSIONS__",
    "-D__CUDA_NO_BFLOAT16_CONVERSIONS__",
    "-D__CUDA_NO_HALF2_OPERATORS__",
    "--expt-relaxed-constexpr",
)
FLAGS = ("-std=c++20", "-O3", "-lineinfo", *TORCH_FLAGS)


def find_interpreter() -> ModuleType | str:
    """The module ``run_ptx``, or why there is none."""
    folders = [os.environ["LAYERSELECT_PTXEMU"]] if "LAYERSELECT_PTXEMU" in os.environ else []
    folders.append(str(ROOT.parent / "shared" / "ptxemu"))
    for folder in folders:
        if Path(folder, "run_ptx.py").exists():
            sys.path.insert(0, folder)
            try:
                import run_ptx
            except (ImportError, OSError, subprocess.CalledProcessError) as error:
                return f"the PTX interpreter in {folder} cannot be used: {error}"
            finally:
                sys.path.remove(folder)
            return run_ptx
    return f"there is no PTX interpreter in {folders[-1]} (LAYERSELECT_PTXEMU names another folder)"


def find_nvcc() -> Path | None:
    """The CUDA compiler, or None."""
    candidates = [shutil.which("nvcc"), *(Path(os.environ[v], "bin/nvcc") for v in ("CUDA_HOME",) if v in os.environ)]
    for candidate in [*candidates, "/usr/local/cuda/bin/nvcc"]:
        if candidate is not None and Path(candidate).exists():
            return Path(candidate)
    return None


class Toolchain:
    """Compiles once for each state of the sources, into ``cache``."""

    def __init__(self, nvcc: Path, cache: Path) -> None:
        self._nvcc = nvcc
        self._cache = cache
        files = sorted(p for p in (*CSRC.rglob("*"), *HERE.glob("*.c*")) if p.suffix in (".h", ".cuh", ".cu", ".cpp"))
        digest = hashlib.sha256(" ".join(FLAGS).encode())
        for path in files:
            digest.update(path.read_bytes())
        self._key = digest.hexdigest()[:16]

    def ptx(self, arch: str, *flags: str) -> str:
        """The PTX text of all kernels. ``flags`` go to the compiler."""
        name = hashlib.sha256(" ".join(flags).encode()).hexdigest()[:8] if flags else "plain"
        kernels = HERE / "kernels.cu"
        return self._built(f"{name}-{arch}.ptx", lambda out: self._compile_ptx(kernels, arch, flags, out)).read_text()

    def broken_ptx(self, file: str, old: str, new: str, arch: str = "sm_80") -> str:
        """The PTX of a copy of the sources in which ``old``, found once in ``csrc/<file>``, became ``new``."""
        name = f"broken-{hashlib.sha256(repr((file, old, new)).encode()).hexdigest()[:8]}-{arch}.ptx"
        return self._built(name, lambda out: self._compile_broken(file, old, new, arch, out)).read_text()

    def launchers(self) -> Path:
        """A shared library of the launchers, the plan and the CPU's rules."""
        return self._built("launchers.so", self._link_launchers)

    def _compile_broken(self, file: str, old: str, new: str, arch: str, output: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            tree = Path(folder)
            shutil.copytree(CSRC, tree / "csrc")
            (tree / "tests/ptx").mkdir(parents=True)
            shutil.copy(HERE / "kernels.cu", tree / "tests/ptx")
            source = tree / "csrc" / file
            text = source.read_text()
            if text.count(old) != 1:
                raise ValueError(f"{file} holds {old!r} {text.count(old)} times; a broken copy needs it once")
            source.write_text(text.replace(old, new))
            self._compile_ptx(tree / "tests/ptx/kernels.cu", arch, (), output)

    def _compile_ptx(self, source: Path, arch: str, flags: tuple[str, ...], output: Path) -> None:
        architecture = f"-arch=compute_{arch.removeprefix('sm_')}"
        _run(self._nvcc, "-ptx", architecture, *FLAGS, *flags, source, "-o", output)

    def _link_launchers(self, output: Path) -> None:
        launchers = output.with_suffix(".o")
        virtual = ("-gencode", "arch=compute_90,code=compute_90")  # PTX only: the device code is not used
        _run(self._nvcc, "-c", *virtual, *FLAGS, "-Xcompiler", "-fPIC", HERE / "kernels.cu", "-o", launchers)
        sources = [
            HERE / "shim.cpp",
            HERE / "fake_cudart.cpp",
            CSRC / "cuda/plan_cuda.cpp",
            CSRC / "cpu/select_cpu.cpp",
        ]
        options = ("-std=c++20", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-Wall", "-Wextra", f"-I{CSRC}")
        _run(os.environ.get("CXX", "g++"), *options, *sources, launchers, "-o", output)

    def _built(self, name: str, build: Callable[[Path], None]) -> Path:
        """The kept file of ``name``; ``build`` writes it where it is not there.

        Workers of one suite share the folder.
        A lock for each file lets one of them build while the others wait.
        """
        folder = self._cache / self._key
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / name
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists():
                building = folder / f"{name}.part"
                build(building)
                building.replace(target)
        return target


def _run(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
