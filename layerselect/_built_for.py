"""Which torch a compiled core was built for: written by setup.py, read without loading the core.

setup.py runs this file by itself, before the package exists: it imports nothing of the package, and torch only where a
function needs it.
"""

from __future__ import annotations

import ast
import mmap
import re
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

_MARK = "layerselect-built-for:"
_RECORD = re.compile(rb"layerselect-built-for:([^|;\0]{1,80})\|([^|;\0]{1,40})\|([01]);")
# Local parts of a version that name the platform, which is compared by itself: 2.13.0 and 2.13.0+cpu may be one build.
_PLATFORM = re.compile(r"\+(cpu|cu\d{2,}|rocm[\d.]+|xpu)$")


class TorchBuild(NamedTuple):
    """What must agree between the torch that a core was compiled for and the torch that loads it.

    Attributes:
        release: the version without a local part that only names the platform.
        platform: ``"cpu"``, ``"CUDA 13.0"``, ``"ROCm 7.0"``, ``"XPU"``; ``None`` where it is not known.
        cxx11_abi: which of the two layouts of libstdc++'s strings torch was compiled with; ``None`` where it is not
            known.
    """

    release: str
    platform: str | None
    cxx11_abi: bool | None

    def fits(self, other: TorchBuild) -> bool:
        """Whether a core compiled for one may be loaded by the other. What is not known is not held against them."""
        pairs = list(zip(self, other, strict=True))
        return pairs[0][0] == pairs[0][1] and all(a == b or a is None or b is None for a, b in pairs[1:])

    def record(self) -> str:
        """The text that the core carries."""
        return f"{_MARK}{self.release}|{self.platform or 'unknown'}|{int(self.cxx11_abi is not False)};"

    def __str__(self) -> str:
        old_abi = ", old C++ ABI" if self.cxx11_abi is False else ""
        return f"torch {self.release}" + (f" ({self.platform}{old_abi})" if self.platform else old_abi)


def running() -> TorchBuild:
    """The torch that this process imports."""
    import torch

    version = torch.version
    platform = _platform(torch.__version__, version.cuda, version.hip, getattr(version, "xpu", None))
    return TorchBuild(_release(torch.__version__), platform, bool(torch.compiled_with_cxx11_abi()))


def in_library(path: str | Path) -> TorchBuild | None:
    """The torch that a compiled core was built for, or ``None`` if it does not say.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        if file.seek(0, 2) == 0:
            return None  # nothing to map
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = _RECORD.search(content)
            parts = found.groups() if found else None  # while the content is there
    if parts is None:
        return None
    release, platform, abi = (part.decode("utf-8", "replace") for part in parts)
    return TorchBuild(release, None if platform == "unknown" else platform, abi == "1")


def in_folder(packages: str | Path) -> TorchBuild | None:
    """The torch in a folder of installed packages, which is not imported; ``None`` if there is none."""
    try:
        tree = ast.parse(Path(packages, "torch", "version.py").read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        facts = {}
    else:
        facts = _constants(tree)
    version = facts.get("__version__")
    if isinstance(version, str):
        platform = _platform(version, facts.get("cuda"), facts.get("hip"), facts.get("xpu"))
        return TorchBuild(_release(version), platform, None)
    for distribution in metadata.distributions(name="torch", path=[str(packages)]):
        # A version without a local part says nothing about the platform.
        return TorchBuild(_release(distribution.version), _platform_named(distribution.version), None)
    return None


def _constants(tree: ast.Module) -> dict[str, object]:
    """The constants that a module assigns at its top, with or without an annotation."""
    found: dict[str, object] = {}
    for line in tree.body:
        targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
        value = getattr(line, "value", None)
        if isinstance(value, ast.Constant):
            found.update({target.id: value.value for target in targets if isinstance(target, ast.Name)})
    return found


def _release(version: str) -> str:
    return _PLATFORM.sub("", str(version))


def _platform(version: str, cuda: object, hip: object, xpu: object) -> str:
    for name, what in (("CUDA", cuda), ("ROCm", hip)):
        if what:
            return f"{name} {what}"
    if xpu:
        return "XPU"
    return _platform_named(version) or "cpu"


def _platform_named(version: str) -> str | None:
    """The platform in the local part of a version, if one stands there: 13.0 in +cu130."""
    local = _PLATFORM.search(str(version))
    if local is None:
        return None
    name = local[1]
    if name.startswith("cu"):
        return f"CUDA {name[2:-1]}.{name[-1]}"
    return {"cpu": "cpu", "xpu": "XPU"}.get(name) or f"ROCm {name.removeprefix('rocm')}"
