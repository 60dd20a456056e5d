"""The environments in which the cases run: the project's own, and others that share its packages as far as their pins
allow.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
#: Environments, results, logs, and what the programs write.
FOLDER = ROOT / ".frameworks"


@dataclass(frozen=True)
class Environment:
    """What is installed beside the project's own packages.

    Args:
        packages: what pip installs. Packages of the project's environment are used where they satisfy it.
        without: what is taken out again: a package that is optional to all of them and built for another torch.
        options: of pip.
        bare: what is installed without the packages that it asks for: those that it needs here are named above.
        build: a line of Python to run once, for what a package compiles at its first use.
    """

    packages: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()
    build: str = ""


#: Of every process that runs in an environment.
VARIABLES = {
    "DS_ACCELERATOR": "cpu",
    "TORCH_EXTENSIONS_DIR": str(FOLDER / "extensions"),
    "TORCHINDUCTOR_CACHE_DIR": str(FOLDER / "inductor"),
    "CUDA_VISIBLE_DEVICES": "",
}

ENVIRONMENTS = {
    "project": Environment(),
    "optimizers": Environment(
        (
            "pytorch-optimizer==4.1.0",
            "bitsandbytes==0.50.2",
            "torchao==0.18.0",
            "schedulefree==1.4.1",
            "prodigyopt==1.1.2",
            "lion-pytorch==0.2.5",
            "galore-torch==1.0",
            "apollo-torch==1.0.3",
            "lomo-optim==0.1.1",
            "adam-mini==1.1.1",
        )
    ),
    "scripts": Environment(("evaluate==0.4.6", "schedulefree==1.4.1")),
    "sentence-transformers": Environment(("sentence-transformers==6.2.0",)),
    "setfit": Environment(("setfit==1.2.0",)),
    "lightning": Environment(("lightning==2.6.6",)),
    "ignite": Environment(("pytorch-ignite==0.5.5",)),
    "fastai": Environment(("fastai==2.8.12",), without=("torchvision",)),
    "adapters": Environment(("adapters==1.3.0",)),
    "composer": Environment(("mosaicml==0.32.1",)),
    "deepspeed": Environment(
        ("deepspeed==0.19.8",),
        options=("--no-build-isolation",),
        build="from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder; ShareMemCommBuilder().load()",
    ),
    "torchtune": Environment(("torchtune==0.6.1", "torchao==0.14.1")),
    "llamafactory": Environment(("llamafactory==0.9.5",), without=("torchvision",)),
    # With the versions it pins, without what only a GPU has a use for (xformers, flash-attn, liger-kernel, torchao).
    "axolotl": Environment(
        (
            "transformers==5.16.1",
            "accelerate==1.13.0",
            "peft==0.20.0",
            "trl==1.9.0",
            "datasets==4.8.4",
            "tokenizers==0.23.1",
            "huggingface_hub==1.17.0",
            "pydantic==2.12.5",
            "posthog==6.7.11",
            "schedulefree==1.4.1",
            "bitsandbytes==0.50.2",
            "axolotl-contribs-lgpl==0.0.7",
            "axolotl-contribs-mit==0.0.6",
            "python-dotenv==1.0.1",
            *("addict", "colorama", "einops", "evaluate", "fastcore", "fire", "immutabledict", "numba", "requests"),
            *("scipy", "tensorboard", "triton", "typer", "wandb"),
        ),
        bare=("axolotl==0.19.0",),
    ),
}


class CannotInstall(Exception):
    """An environment that pip cannot make here; the message is pip's last line."""


class NotToBeHad(Exception):
    """A public script that cannot be got here, or that is not what its replacements are for."""


def python(name: str) -> str:
    """The interpreter of an environment, which is made first where it is not there.

    Raises:
        CannotInstall: pip failed.
    """
    spec = ENVIRONMENTS[name]
    if not spec.packages:
        return sys.executable
    place = FOLDER / "envs" / name
    interpreter = place / "bin" / "python"
    wanted = "\n".join((*spec.packages, *spec.bare, *(f"-{one}" for one in spec.without), f"torch=={version('torch')}"))
    done = place / "installed.txt"
    if done.exists() and done.read_text() == wanted:
        return str(interpreter)
    logger.info("making the environment %s", name)
    venv.create(place, with_pip=False, clear=True, symlinks=True)
    # What pip does not install there is found in the project's environment.
    packages = place / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    packages.joinpath("shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    log = FOLDER / "logs" / f"install-{name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    pip = [str(interpreter), "-m", "pip"]
    # The very torch that the extension was compiled against, whatever a pin would rather have.
    torch = f"torch=={version('torch').split('+')[0]}"
    commands = [[*pip, "install", "--disable-pip-version-check", *spec.options, *spec.packages, torch]]
    if spec.bare:
        commands.append([*pip, "install", "--disable-pip-version-check", "--no-deps", *spec.bare])
    if spec.without:
        commands.append([*pip, "uninstall", "--yes", *spec.without])
    if spec.build:
        commands.append([str(interpreter), "-c", spec.build])
    with log.open("w") as out:
        for command in commands:
            if subprocess.run(
                command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **VARIABLES}
            ).returncode:
                out.flush()
                raise CannotInstall(_why(log.read_text()))
    done.write_text(wanted)
    return str(interpreter)


def _why(log: str) -> str:
    """What stands in the way, of all that pip says."""
    lines = [line.strip() for line in log.splitlines()]
    pins = [line for line in lines if " depends on torch" in line]
    return (pins or [line for line in lines if line.startswith("ERROR")] or ["pip failed"])[0]
