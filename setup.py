"""Builds the compiled core `layerselect._C`; everything else about the package stands in pyproject.toml.

The extension is optional: without a C++ compiler, or with LAYERSELECT_NATIVE=0, a pure-Python package is built and
`backend="torch"` does the work. LAYERSELECT_NATIVE=1 turns a missing compiler into an error.

It holds the CUDA kernels where nvcc and a CUDA build of torch are found, whether or not a GPU is in sight.
LAYERSELECT_CUDA=0 leaves them out, LAYERSELECT_CUDA=1 turns whatever is missing into an error. TORCH_CUDA_ARCH_LIST
chooses the architectures ("9.0" for an H100 alone).

A core runs with the torch it was compiled for and with no other. So a package with a core requires that torch, a build
that finds another one where the package will be installed stops, and the core carries a record
(layerselect/_built_for.py).

LAYERSELECT_SANITIZE="address,undefined" or "thread" is for `make sanitize`.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import setup

# Commands that build something: a build runs this file several times, and one warning is enough.
BUILDING = {"bdist_wheel", "editable_wheel", "build", "build_ext", "install", "develop"}
# dist_info: an installer reads there what the package requires, and acts on it before anything is compiled.
DESCRIBING = {"dist_info", *BUILDING}
DEPENDENCIES = ["numpy>=1.26", "rich>=13"]
ANY_TORCH = "torch>=2.9"
SOURCES = sorted(str(path) for pattern in ("*.cpp", "cpu/*.cpp", "cuda/*.cpp") for path in Path("csrc").glob(pattern))
KERNELS = sorted(str(path) for path in Path("csrc", "cuda").glob("*.cu"))
HEADERS = sorted(str(path) for pattern in ("*.h", "*.cuh") for path in Path("csrc").rglob(pattern))
# -ffp-contract=off: rounding must not depend on whether the compiler finds a fused multiply-add.
COMPILE_FLAGS = ["-std=c++20", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-g0", "-DAT_PER_OPERATOR_HEADERS"]
OPENMP = "-fopenmp"
# torch's own headers leave parameters unused.
WARNING_FLAGS = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-psabi"]
SANITIZERS = os.environ.get("LAYERSELECT_SANITIZE")
# After -g0 and -O3, which they override: a report names lines, and what the optimizer would remove is seen, too.
SANITIZE_FLAGS = (
    [f"-fsanitize={SANITIZERS}", "-g1", "-O1", "-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined"]
    if SANITIZERS
    else []
)
BUILT_FOR = runpy.run_path(str(Path(__file__).with_name("layerselect") / "_built_for.py"))


def missing_for_native() -> str | None:
    """What keeps the extension from being built, or None."""
    if os.environ.get("LAYERSELECT_NATIVE") == "0":
        return "LAYERSELECT_NATIVE=0 asks for none"
    if not SOURCES:
        return (
            "the folder csrc with its sources is missing (take the whole source distribution, or clone the repository)"
        )
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None:
        return f"there is no C++ compiler {compiler!r} (install g++ or clang++, or set CXX)"
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        return f"{header} is missing (install the Python development headers)"
    try:
        import torch  # noqa: F401
    except ImportError:
        return "torch cannot be imported in the build environment"
    return None


def missing_for_threads() -> str | None:
    """What keeps the core from using more than one thread, or None."""
    import torch

    if "ATen parallel backend: OpenMP" not in torch.__config__.parallel_info():
        return "this build of torch does not use OpenMP"
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    # The runtime that serves is the one in the process, torch's libgomp. What clang compiles calls another one by name.
    program = "#ifdef __clang__\n#error\n#endif\n#include <omp.h>\nint main() { return omp_get_thread_num(); }"
    command = [*compiler, OPENMP, "-x", "c++", "-fsyntax-only", "-"]
    if subprocess.run(command, input=program, capture_output=True, text=True, check=False).returncode:
        return f"{compiler[0]} is not g++ with OpenMP (install g++ and libgomp, or set CXX)"
    return None


def thread_flags() -> list[str]:
    """What makes ``at::parallel_for`` parallel: it is a template, whose OpenMP pragma is compiled here.

    The flag is the compiler's alone. The linker does not get it, so that the extension names no OpenMP runtime of its
    own: its calls are resolved by the one that libtorch_cpu has loaded, whatever file that is, and no second pool of
    threads spins against torch's.
    """
    reason = missing_for_threads()
    if reason is None:
        return [OPENMP]
    if not BUILDING.isdisjoint(sys.argv):
        sys.stderr.write(f"layerselect: WARNING: the compiled core will use one thread, since {reason}\n")
    return []


def find_toolkit() -> None:
    """Sets CUDA_HOME, unless it is set, to the toolkit of the nvcc on the PATH: that may be a link or a script, beside
    which torch would look for the libraries in vain.
    """
    nvcc = shutil.which("nvcc")
    if nvcc is None or not KERNELS or "CUDA_HOME" in os.environ or "CUDA_PATH" in os.environ:
        return
    said = subprocess.run([nvcc, "--dryrun", "-c", KERNELS[0]], capture_output=True, text=True, check=False).stderr
    top = re.search(r"^#\$ TOP=(.+)$", said, re.MULTILINE)
    if top is not None:
        os.environ["CUDA_HOME"] = os.path.realpath(top[1].strip())


def nvcc_version(nvcc: str) -> tuple[int, int] | None:
    """(13, 0) for nvcc 13.0; None if the program does not answer."""
    try:
        answer = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.search(r"release (\d+)\.(\d+)", answer)
    return (int(found[1]), int(found[2])) if found else None


def missing_for_cuda() -> str | None:
    """What keeps the CUDA kernels from being built, or None."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if os.environ.get("LAYERSELECT_CUDA") == "0":
        return "LAYERSELECT_CUDA=0 asks for none"
    if not KERNELS:
        return "csrc/cuda holds no kernels (take the whole source distribution, or clone the repository)"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA (install a CUDA build of torch)"
    if CUDA_HOME is None:
        return f"there is no nvcc (install the CUDA {torch.version.cuda} toolkit, or set CUDA_HOME)"
    version = nvcc_version(os.path.join(CUDA_HOME, "bin", "nvcc"))
    if version is None:
        return f"{CUDA_HOME}/bin/nvcc does not run (install the CUDA {torch.version.cuda} toolkit, or set CUDA_HOME)"
    if version[0] != int(torch.version.cuda.split(".")[0]):
        return (
            f"nvcc is of CUDA {version[0]}.{version[1]} and torch of CUDA {torch.version.cuda} (install the toolkit of "
            f"CUDA {torch.version.cuda}, or point CUDA_HOME at it)"
        )
    if "TORCH_CUDA_ARCH_LIST" not in os.environ:
        # Machine code for each generation from A100 on, and PTX of the newest for those to come.
        known = "9.0;10.0;12.0+PTX" if version >= (12, 8) else "9.0+PTX"
        os.environ["TORCH_CUDA_ARCH_LIST"] = f"8.0;8.6;8.9;{known}"
    return None


def folders_of_packages() -> list[str]:
    """Where the Python that runs this build keeps packages, though an isolated build does not see them; first come
    first.
    """
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    if sys.prefix == sys.base_prefix:
        return [site.getusersitepackages(), *folders]
    try:
        settings = Path(sys.prefix, "pyvenv.cfg").read_text(encoding="utf-8")
    except OSError:
        settings = ""
    if re.search(r"^include-system-site-packages\s*=\s*true", settings, re.MULTILINE | re.IGNORECASE):
        base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
        folders += [sysconfig.get_path(name, vars=base) for name in ("purelib", "platlib")]
    return folders


def refuse_another_torch() -> None:
    """Stops a build whose core could not be loaded where it is about to be installed."""
    here = BUILT_FOR["running"]()
    there = next(filter(None, map(BUILT_FOR["in_folder"], folders_of_packages())), None)
    if there is not None and not here.fits(there):
        sys.exit(
            f"layerselect: this build would compile the core for {here}, but {sys.prefix} holds {there}, which could "
            "not load it: install with 'pip install --no-build-isolation' (after 'pip install \"setuptools>=77\" "
            "wheel ninja pybind11 numpy'), or set LAYERSELECT_NATIVE=0 for a package without the core, which is slower"
        )


def describe(without_cuda: str | None) -> None:
    """Says which core is built: pip shows it with -v."""
    kernels = "with CUDA kernels" if without_cuda is None else f"without CUDA kernels, since {without_cuda}"
    sys.stderr.write(f"layerselect: the core is compiled for {BUILT_FOR['running']()}, {kernels}\n")


def native_options() -> dict:
    """The arguments of ``setup()`` that build the compiled core, where it can be built."""
    reason = missing_for_native()
    if reason is not None:
        if os.environ.get("LAYERSELECT_NATIVE") == "1":
            sys.exit(f"layerselect: LAYERSELECT_NATIVE=1, but {reason}")
        if not BUILDING.isdisjoint(sys.argv):
            sys.stderr.write(
                f"layerselect: WARNING: no compiled core is built, since {reason}; "
                'the package will run with backend="torch" only, which is slower\n'
            )
        return {"install_requires": [ANY_TORCH, *DEPENDENCIES]}
    if not DESCRIBING.isdisjoint(sys.argv):
        refuse_another_torch()
    find_toolkit()  # before torch looks for it
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    without_cuda = missing_for_cuda()
    if without_cuda is not None and os.environ.get("LAYERSELECT_CUDA") == "1":
        sys.exit(f"layerselect: LAYERSELECT_CUDA=1, but {without_cuda}")
    if not BUILDING.isdisjoint(sys.argv):
        describe(without_cuda)
    built_for = BUILT_FOR["running"]()
    # The record is in every command line: another torch makes ninja compile everything anew.
    record = f'-DLAYERSELECT_BUILT_FOR="{built_for.record()}"'
    flags = [*COMPILE_FLAGS, *WARNING_FLAGS, *thread_flags(), *SANITIZE_FLAGS, record]
    if without_cuda is None:
        arguments = {"cxx": [*flags, "-DLAYERSELECT_WITH_CUDA"], "nvcc": ["-std=c++20", "-O3"]}
        extension = CUDAExtension("layerselect._C", SOURCES + KERNELS, depends=HEADERS, extra_compile_args=arguments)
    else:
        extension = CppExtension("layerselect._C", SOURCES, depends=HEADERS, extra_compile_args={"cxx": flags})
    extension.extra_link_args += SANITIZE_FLAGS
    # A source distribution is compiled elsewhere, for the torch that is there.
    torch = ANY_TORCH if DESCRIBING.isdisjoint(sys.argv) else f"torch=={built_for.release}"
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": BuildExtension},
        "install_requires": [torch, *DEPENDENCIES],
    }


setup(**native_options())
