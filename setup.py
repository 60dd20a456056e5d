"""Builds the compiled core `layerselect._C`; everything else about the package stands in pyproject.toml.

The extension is optional: without a C++ compiler, or with LAYERSELECT_NATIVE=0, a pure-Python package is built and
`backend="torch"` does the work. LAYERSELECT_NATIVE=1 turns a missing compiler into an error.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import setup

# Commands that build something: a build runs this file several times, and one warning is enough.
BUILDING = {"bdist_wheel", "editable_wheel", "build", "build_ext", "install", "develop"}
SOURCES = sorted(str(path) for pattern in ("*.cpp", "cpu/*.cpp") for path in Path("csrc").glob(pattern))
HEADERS = sorted(str(path) for path in Path("csrc").rglob("*.h"))
# -ffp-contract=off: rounding must not depend on whether the compiler finds a fused multiply-add.
COMPILE_FLAGS = ["-std=c++20", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-g0", "-DAT_PER_OPERATOR_HEADERS"]
# torch's own headers leave parameters unused.
WARNING_FLAGS = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-psabi"]


def missing_for_native() -> str | None:
    """What keeps the extension from being built, or None."""
    if os.environ.get("LAYERSELECT_NATIVE") == "0":
        return "LAYERSELECT_NATIVE=0 asks for none"
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


def native_options() -> dict:
    reason = missing_for_native()
    if reason is not None:
        if os.environ.get("LAYERSELECT_NATIVE") == "1":
            sys.exit(f"layerselect: LAYERSELECT_NATIVE=1, but {reason}")
        if not BUILDING.isdisjoint(sys.argv):
            sys.stderr.write(
                f"layerselect: WARNING: no compiled core is built, since {reason}; "
                'the package will run with backend="torch" only, which is slower\n'
            )
        return {}
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    extension = CppExtension(
        "layerselect._C",
        SOURCES,
        depends=HEADERS,
        extra_compile_args={"cxx": COMPILE_FLAGS + WARNING_FLAGS},
    )
    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildExtension}}


setup(**native_options())
