"""A core is loaded by the torch it was compiled for and by no other, and a build for another torch says so."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import layerselect
import pytest
import torch
from layerselect import _backend, _built_for
from layerselect._built_for import TorchBuild

ROOT = Path(__file__).parents[2]
HERE = _built_for.running()
REBUILD = "pip install --no-build-isolation"


@pytest.mark.parametrize(
    ("one", "other", "fit"),
    [
        (("2.13.0", "cpu", True), ("2.13.0", "cpu", True), True),
        (("2.13.0", "cpu", True), ("2.13.1", "cpu", True), False),
        (("2.13.0", "cpu", True), ("2.13.0", "CUDA 13.0", True), False),
        (("2.13.0", "CUDA 12.8", True), ("2.13.0", "CUDA 13.0", True), False),
        (("2.13.0", "cpu", True), ("2.13.0", "cpu", False), False),
        (("2.13.0", None, None), ("2.13.0", "CUDA 13.0", True), True),
        (("2.13.0", None, None), ("2.12.0", None, None), False),
    ],
)
def test_what_fits(one, other, fit):
    assert TorchBuild(*one).fits(TorchBuild(*other)) is fit
    assert TorchBuild(*other).fits(TorchBuild(*one)) is fit


@pytest.mark.parametrize(
    ("version", "release", "platform"),
    [
        ("2.13.0+cpu", "2.13.0", "cpu"),
        ("2.13.0", "2.13.0", None),
        ("2.14.1+cu130", "2.14.1", "CUDA 13.0"),
        ("2.10.0+rocm7.0", "2.10.0", "ROCm 7.0"),
        (
            "2.15.0a0+git1234abc",
            "2.15.0a0+git1234abc",
            None,
        ),  # two such builds have no more in common than two releases
    ],
)
def test_the_torch_of_a_folder_of_packages(tmp_path, version, release, platform):
    (tmp_path / f"torch-{version}.dist-info").mkdir()
    (tmp_path / f"torch-{version}.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
    )
    assert _built_for.in_folder(tmp_path) == (release, platform, None)
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text(
        "from typing import Optional\n__version__ = '2.14.1+cu130'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] "
        "= None\n"
    )
    assert _built_for.in_folder(tmp_path) == ("2.14.1", "CUDA 13.0", None)  # a local part says less than this file


def test_a_folder_without_torch(tmp_path):
    assert _built_for.in_folder(tmp_path) is None
    assert _built_for.in_folder(tmp_path / "nowhere") is None


def test_the_torch_that_runs_is_the_one_in_its_folder():
    folder = Path(torch.__file__).parents[1]
    assert _built_for.in_folder(folder)[:2] == HERE[:2]


def core_of_the_tree() -> bytes:
    path = _backend._core_file()
    if path is None:
        pytest.skip("the compiled core layerselect._C is not built")
    return Path(path).read_bytes()


def test_the_core_carries_the_record(tmp_path):
    content = core_of_the_tree()
    assert content.count(HERE.record().encode()) == 1
    core = tmp_path / "core.so"
    core.write_bytes(content)
    assert _built_for.in_library(core) == HERE
    assert _backend._built_for_another(str(core)) is None


OTHER = TorchBuild("2.99.0", HERE.platform, True)
UNLIKE = TorchBuild(HERE.release, "CUDA 99.0", True)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (OTHER.record(), rf"compiled for torch 2\.99\.0 .*here is {re.escape(str(HERE))}"),
        (UNLIKE.record(), r"compiled for torch .*\(CUDA 99\.0\)"),
        ("", "does not say which torch"),
        ("layerselect-built-for:", "does not say which torch"),
    ],
)
def test_a_core_for_another_torch_is_told_without_loading(tmp_path, record, words):
    core = tmp_path / "core.so"
    core.write_bytes(b"\x7fELF" + record.encode())  # nothing that could be loaded
    problem = _backend._built_for_another(str(core))
    assert re.search(words, problem) and REBUILD in problem and "\n" not in problem


def test_an_empty_core_and_one_that_is_gone(tmp_path):
    (tmp_path / "core.so").touch()
    assert "does not say" in _backend._built_for_another(str(tmp_path / "core.so"))
    assert "cannot be read" in _backend._built_for_another(str(tmp_path / "gone.so"))


USE = """
import torch, layerselect
model = torch.nn.Module()
model.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(3))
selector = layerselect.FastSelector(model, mode="observe")
x = torch.ones(2, 4)
for layer in model.layers:
    x = layer(x)
x.sum().backward()
selector.step()
print(selector.backend, len(selector.selected()) > 0)
try:
    layerselect.FastSelector(model, mode="observe", backend="native")
except layerselect.LayerSelectError as error:
    print(error)
"""


def use(packages: Path, environment: dict[str, str]) -> tuple[list[str], str]:
    environment = {**environment, "PYTHONPATH": str(packages)}
    done = subprocess.run([sys.executable, "-c", USE], cwd=packages, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


@pytest.fixture
def copied(tmp_path) -> Path:
    """The folder of a copy of the package without its core."""
    shutil.copytree(
        Path(layerselect.__file__).parent,
        tmp_path / "layerselect",
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
    )
    return tmp_path


def test_the_package_serves_with_a_core_for_another_torch(copied, environment):
    content = core_of_the_tree()
    other = re.sub(rb"(layerselect-built-for:)\d", rb"\g<1>9", content)
    assert other != content
    (copied / "layerselect" / Path(_backend._core_file()).name).write_bytes(other)
    (said, refused), warned = use(copied, environment)
    assert said == "torch True"
    assert re.search(
        r'^backend="native": .*compiled for torch 9.*here is torch .*' + REBUILD + '.*backend="torch"$', refused
    )
    assert warned.count("\n") == 1 and "compiled for torch 9" in warned and REBUILD in warned


def test_a_core_that_the_loader_refuses(copied, environment):
    """The record is right, and yet a symbol is missing: a torch that somebody patched."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    source = copied / "core.cpp"
    source.write_text(
        'extern "C" void nowhere();\n'
        f'extern "C" const char record[] = "{HERE.record()}";\n'
        'extern "C" void* PyInit__C() { nowhere(); return nullptr; }\n'
    )
    core = copied / "layerselect" / f"_C{EXTENSION_SUFFIXES[0]}"
    subprocess.run([compiler, "-shared", "-fPIC", str(source), "-o", str(core)], check=True)
    (said, refused), warned = use(copied, environment)
    assert said == "torch True"
    assert "undefined symbol: nowhere" in refused and REBUILD in refused
    assert warned.count("\n") == 1 and "undefined symbol: nowhere" in warned


@pytest.fixture
def tree(tmp_path) -> Path:
    """What a build reads, and none of the kernels."""
    tree = tmp_path / "tree"
    (tree / "layerselect").mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in ("__init__.py", "_built_for.py", "_version.py"):
        shutil.copy(ROOT / "layerselect" / name, tree / "layerselect")
    shutil.copytree(ROOT / "csrc", tree / "csrc", ignore=shutil.ignore_patterns("*.cu", "*.cuh"))
    return tree


def describe(tree: Path, target: Path, **variables: str) -> subprocess.CompletedProcess:
    """What an installer asks of a build, by the Python of ``target``, with the torch of these tests beside it as in an
    isolated build.
    """
    packages = os.pathsep.join(
        str(Path(module.__file__).parents[1]) for module in (torch, pytest.importorskip("setuptools"))
    )
    environment = {**os.environ, "PYTHONPATH": packages, "OMP_NUM_THREADS": "1", **variables}
    command = [str(target / "bin" / "python"), "setup.py", "-q", "dist_info", "--output-dir", str(tree)]
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)


def required(tree: Path) -> list[str]:
    (metadata,) = tree.glob("layerselect-*.dist-info/METADATA")
    return [line for line in metadata.read_text().splitlines() if line.startswith("Requires-Dist:") and ";" not in line]


def test_a_build_for_another_torch_stops(tree, tmp_path):
    if shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler: no core would be built")
    target = tmp_path / "target"
    venv.create(target, symlinks=True)
    (packages,) = target.glob("lib/python*/site-packages")
    (packages / "torch").mkdir()
    (packages / "torch" / "version.py").write_text("__version__ = '2.99.0+cu130'\ncuda = '13.0'\n")
    done = describe(tree, target)
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("layerselect: ")]
    assert str(HERE) in line and "torch 2.99.0 (CUDA 13.0)" in line
    assert "--no-build-isolation" in line and "LAYERSELECT_NATIVE=0" in line
    assert not list(tree.glob("layerselect-*.dist-info"))

    done = describe(tree, target, LAYERSELECT_NATIVE="0")
    assert done.returncode == 0, done.stderr
    assert required(tree) == ["Requires-Dist: torch>=2.9", "Requires-Dist: numpy>=1.26", "Requires-Dist: rich>=13"]


def test_a_package_with_a_core_requires_its_torch(tree, tmp_path):
    if shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler: no core would be built")
    venv.create(tmp_path / "target", symlinks=True)
    done = describe(tree, tmp_path / "target")
    assert done.returncode == 0, done.stderr
    assert f"Requires-Dist: torch=={HERE.release}" in required(tree)


def test_one_version():
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited[1] == layerselect.__version__
