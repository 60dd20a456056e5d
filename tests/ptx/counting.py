"""Counts the bytes that PTX moves: a counter beside every access to global memory, told apart by source file."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import PurePath

import numpy as np

# Pointers that come out of a table are generic to the compiler; all of them lead to global memory.
_ACCESS = re.compile(r"^\s*(@!?%p\d+\s+)?(ld|st)\.(?!param|shared|local|const)([.\w]+)\s")
_SIZE = {"8": 1, "16": 2, "32": 4, "64": 8}


def instrument(ptx: str) -> tuple[str, list[tuple[str, str, int]]]:
    """(the PTX with counters, for each counter: source file, ``ld`` or ``st``, bytes of one access)."""
    paths = dict(re.findall(r'^\s*\.file\s+(\d+)\s+"([^"]+)"', ptx, re.M))
    files = {number: PurePath(path).name for number, path in paths.items() if "/csrc/" in path}
    lines: list[str] = []
    sites: list[tuple[str, str, int]] = []
    file = "?"
    for line in ptx.splitlines():
        location = re.match(r"^\s*\.loc\s+(\d+)\s[^,]*(?:,.*inlined_at\s+(\d+))?", line)
        if location:  # an intrinsic of CUDA's headers counts for who calls it
            file = files.get(location[1]) or files.get(location[2] or "", "?")
        access = _ACCESS.match(line)
        if access:
            kinds = access[3].split(".")
            width = _SIZE[re.sub(r"\D", "", kinds[-1])]
            vector = next((int(kind[1]) for kind in kinds if kind in ("v2", "v4")), 1)
            lines.append(f"{access[1] or ''}red.global.add.u64 [ls_counts+{8 * len(sites)}], 1;")
            sites.append((file, access[2], width * vector))
        lines.append(line)
    at = next(i for i, line in enumerate(lines) if line.startswith(".address_size")) + 1
    lines.insert(at, f".visible .global .align 8 .b64 ls_counts[{len(sites)}];")
    return "\n".join(lines), sites


class ByteCounter:
    """Reads the counters of an instrumented module."""

    def __init__(self, module: object, sites: list[tuple[str, str, int]]) -> None:
        self._counts = module.symbol("ls_counts", np.uint64)  # type: ignore[attr-defined]
        self._sites = sites

    def take(self) -> Counter[tuple[str, str]]:
        """Bytes by (source file, ``ld`` or ``st``) since the last call, and resets."""
        moved: Counter[tuple[str, str]] = Counter()
        for count, (file, direction, size) in zip(self._counts.get().tolist(), self._sites, strict=True):
            moved[file, direction] += count * size
        self._counts.set(np.zeros(len(self._sites), np.uint64))
        return moved
