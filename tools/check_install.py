"""Builds the source distribution and wheels from it, installs them into an empty environment outside the tree, and runs
them.

    python tools/check_install.py [--keep FOLDER]

Needs an environment with what a build needs (`make setup` makes one); what is built is left in FOLDER. Each step says
how long it took. The torch of this environment is the torch that is compiled for, and that the empty environment gets.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "tools" / "installed_program.py"
NO_COMPILER = {"CXX": "/nowhere/c++", "LAYERSELECT_NATIVE": ""}


class Failed(Exception):
    """What a step found wrong."""


def say(text: str) -> None:
    sys.stdout.write(f"check-install: {text}\n")
    sys.stdout.flush()


def call(command: list[str], *, cwd: Path, wrong: bool = False, **variables: str) -> str:
    """What the command says, both streams.

    Raises:
        Failed: it ended otherwise than expected (``wrong``: with an error).
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        command, cwd=cwd, env={**environment, **variables}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if (done.returncode != 0) != wrong:
        raise Failed(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def build_sdist(out: Path) -> Path:
    """Raises Failed if it lacks a source."""
    call([sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(out), str(ROOT)], cwd=out)
    (sdist,) = out.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*") if path.is_file()}
    wanted |= {"setup.py", "pyproject.toml", "layerselect/py.typed", "tests/conftest.py", "SECURITY.md", "CITATION.cff"}
    if not wanted <= held:
        raise Failed(f"{sdist.name} lacks {sorted(wanted - held)}")
    say(f"{sdist.name}: {len(held)} entries, {sdist.stat().st_size / 1e6:.1f} MB")
    return sdist


def build_wheel(sdist: Path, out: Path, **variables: str) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-build-isolation", "--no-deps", "--no-cache-dir"]
    said = call([*command, "--wheel-dir", str(out), str(sdist)], cwd=out.parent, **variables)
    for line in dict.fromkeys(line.strip() for line in said.splitlines() if line.strip().startswith("layerselect: ")):
        say(line.removeprefix("layerselect: "))
    (wheel,) = out.glob("*.whl")
    return wheel


def refuse_cuda(sdist: Path, folder: Path) -> None:
    """Where the kernels cannot be built, LAYERSELECT_CUDA=1 must say why in one sentence, without compiling
    anything.
    """
    import torch

    if torch.version.cuda is not None and shutil.which("nvcc"):
        return  # they are in the wheel
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data") if hasattr(tarfile, "data_filter") else archive.extractall(folder)
    (tree,) = folder.iterdir()
    said = call([sys.executable, "setup.py", "-q", "build_ext"], cwd=tree, wrong=True, LAYERSELECT_CUDA="1")
    lines = [line for line in said.splitlines() if line.startswith("layerselect: LAYERSELECT_CUDA=1, but ")]
    if len(lines) != 1:
        raise Failed(f"LAYERSELECT_CUDA=1 says:\n{said[-2000:]}")
    say(f"asked for CUDA kernels: {lines[0].removeprefix('layerselect: ')}")


def run_in(environment: Path, wheel: Path, backend: str) -> None:
    """Installs the wheel and runs the program there, in a folder of its own."""
    python = str(environment / "bin" / "python")
    call([python, "-m", "pip", "install", "-q", "--force-reinstall", "--no-deps", str(wheel)], cwd=environment)
    with tempfile.TemporaryDirectory() as folder:
        program = shutil.copy(PROGRAM, folder)
        said = call([python, program, backend], cwd=Path(folder), OMP_NUM_THREADS="1")
    say(said.strip().splitlines()[-1])


def check(folder: Path) -> None:
    started = time.monotonic()

    def timed(what: str) -> None:
        nonlocal started
        now = time.monotonic()
        say(f"  {what}: {now - started:.0f} s")
        started = now

    for name in ("dist", "core", "plain", "tree"):
        (folder / name).mkdir()
    sdist = build_sdist(folder / "dist")
    timed("source distribution")
    refuse_cuda(sdist, folder / "tree")
    timed("CUDA tried")
    plain = build_wheel(sdist, folder / "plain", **NO_COMPILER)
    timed("wheel without a compiler")
    core = build_wheel(sdist, folder / "core", LAYERSELECT_NATIVE="1")
    timed("wheel with a compiler")
    venv.create(folder / "empty", with_pip=True)
    call(
        [str(folder / "empty" / "bin" / "python"), "-m", "pip", "install", "-q", "--no-compile", str(core)], cwd=folder
    )
    timed("empty environment, and what the wheel requires")
    run_in(folder / "empty", core, "native")
    run_in(folder / "empty", plain, "torch")
    timed("both wheels run there")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="copy the source distribution and the wheels here")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="check-install-") as folder:
        try:
            check(Path(folder))
        except Failed as error:
            sys.stderr.write(f"check-install: {error}\n")
            return 1
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
            for made in (*Path(folder).glob("dist/*"), *Path(folder).glob("core/*.whl")):
                shutil.copy(made, options.keep)
    say(f"all in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
