"""Runs inside an environment where layerselect was installed, outside its tree: what a user with no extras can do.

    python installed_program.py (native|torch)

Imports everything, trains a few steps on the backend named, and calls the commands. Ends with 1 and a sentence if
something is not as it should be.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import pkgutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import layerselect
import torch
from layerselect import FastSelector, TopK, _backend
from layerselect.cli.main import _OPTIONAL_PACKAGES

# Programs that import a module of ours, which nobody else does.
HOSTS = ("axolotl",)
# A call, and what its one line must name where nothing but torch, numpy and rich is there.
NEEDS_AN_EXTRA = (
    ["demo", "--out", "out"],
    ["intent", "--data", "corpus.jsonl", "--model", "model", "--out", "out"],
    ["predict", "--adapter", "run", "--input", "corpus.jsonl"],
    ["revise", "--data", "corpus.jsonl", "--model", "model", "--out", "out"],
    ["rewrite", "--adapter", "run", "--input", "corpus.jsonl"],
    ["compare", "--data", "corpus.jsonl", "--model", "model", "--out", "out"],
    ["card", "--data", "corpus.jsonl", "--model", "model", "--out", "out"],
    ["doctor", "--unpack", "package", "out"],
)


def check(holds: bool, what: str) -> None:
    if not holds:
        sys.exit(f"installed_program: {what}")


def check_place() -> None:
    place = Path(layerselect.__file__).resolve()
    check(Path(sys.prefix).resolve() in place.parents, f"layerselect comes from {place}, not from {sys.prefix}")
    installed = metadata.version("layerselect")
    check(installed == layerselect.__version__, f"the metadata say {installed}, the package {layerselect.__version__}")


def import_everything() -> int:
    """How many modules there are. One may be refused for want of a package of an extra, or of the program that alone
    imports it, and for nothing else.
    """
    names = [found.name for found in pkgutil.walk_packages(layerselect.__path__, "layerselect.")]
    for name in names:
        if name.endswith(("__main__", "._C")):
            continue  # the one runs the program; the other is _backend's business
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            check(missing in {*_OPTIONAL_PACKAGES, *HOSTS}, f"{name} needs {missing}, which no extra names")
    return len(names)


def train(backend: str) -> None:
    """The loop of the README on a model of three layers."""
    torch.manual_seed(0)
    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    selector = FastSelector(model, TopK(1), mode="gate")
    selector.attach(optimizer)
    for _ in range(4):
        hidden = torch.ones(2, 8)
        for layer in model.layers:
            hidden = layer(hidden)
        hidden.square().sum().backward()
        selector.step()
        optimizer.step()
        optimizer.zero_grad()
    check(selector.backend == backend, f"the backend is {selector.backend}, not {backend}")
    check(len(selector.selected()) == 1, f"{selector.selected()} were selected, not one layer")
    record = _backend.resolve("auto", "cpu")
    check(record == backend, f"backend='auto' is {record}, not {backend}")


def command(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("layerselect")), *arguments], capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


def call_commands() -> None:
    code, out, _ = command("--version")
    check(code == 0 and out.split() == ["layerselect", layerselect.__version__], f"--version says {out!r}")
    code, out, _ = command("--help")
    check(code == 0 and "doctor" in out, f"--help ends with {code}")
    code, out, _ = command("doctor")
    check(code == 0 and "compiled core" in out, f"doctor ends with {code}: {out}")
    if not any(importlib.util.find_spec(name) for name in ("transformers", "safetensors")):
        from layerselect.cli import main  # in this process: each call alone would import torch again

        for arguments in NEEDS_AN_EXTRA:
            with contextlib.redirect_stderr(io.StringIO()) as kept:
                code = main(arguments)
            said = kept.getvalue()
            one = said.count("\n") == 1 and "pip install 'layerselect[" in said
            check(code == 2 and one, f"{' '.join(arguments)} ends with {code} and says {said!r}")


def main() -> int:
    check_place()
    count = import_everything()
    train(sys.argv[1])
    call_commands()
    sys.stdout.write(
        f"layerselect {layerselect.__version__}, backend {sys.argv[1]}: {count} modules, a loop, the commands\n"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
