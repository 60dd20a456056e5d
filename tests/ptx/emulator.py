"""The launchers of csrc/cuda, run for real, with every launch executed by the PTX interpreter."""

from __future__ import annotations

import ctypes as c
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tests.ptx import structs

_CALLBACK = c.CFUNCTYPE(c.c_int, c.c_char_p, c.c_uint, c.c_uint, c.POINTER(c.c_void_p), c.c_size_t, c.c_void_p)
_PLAN_ARRAYS = {
    "order": np.int64,
    "items": np.dtype([("offset", "i8"), ("length", "u4"), ("tensor_and_type", "u4")]),
    "units": np.dtype([("item", "u4"), ("count", "u4")]),
    "item_begin": np.int32,
    "group_begin": np.int32,
    "group_tensors": np.int32,
    "unit_begin": np.uint32,
    "unit_tensors": np.uint32,
}


@dataclass
class Launch:
    """One launch, as the runtime would have seen it."""

    kernel: str
    grid: int
    block: int
    argument_bytes: int
    stats: dict[str, Any]


@dataclass
class Emulator:
    """Launchers over one PTX module. ``options`` go to the interpreter's ``launch``: seed, chaos, resident, race."""

    run_ptx: ModuleType
    library: Path
    ptx: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.module = self.run_ptx.Module(text=self.ptx)
        self.lib = c.CDLL(str(self.library))
        self.lib.shim_plan.restype = c.c_void_p
        for name in ("shim_sizeof", "shim_constant", "shim_plan_array"):
            getattr(self.lib, name).restype = c.c_int64
        for name in ("shim_variance", "shim_top", "shim_above"):
            getattr(self.lib, name).restype = c.c_float
        names = ("threads", "small_table", "large_table", "warp_elements", "block_elements", "most_items")
        self.constants = {name: self.lib.shim_constant(i) for i, name in enumerate(names)}
        self.launches: list[Launch] = []
        self._error: Exception | None = None
        self._callback = _CALLBACK(self._on_launch)

    def plan(
        self, numels: Sequence[int], types: Sequence[str], groups: Sequence[int], num_groups: int
    ) -> dict[str, np.ndarray]:
        """The arrays of a ``DevicePlan``."""
        count = len(numels)
        handle = c.c_void_p(
            self.lib.shim_plan(
                c.c_int64(count),
                (c.c_int64 * count)(*numels),
                (c.c_uint8 * count)(*(structs.DTYPES[t] for t in types)),
                (c.c_int64 * count)(*groups),
                c.c_int64(num_groups),
            )
        )
        arrays = {}
        for which, (name, dtype) in enumerate(_PLAN_ARRAYS.items()):
            size = self.lib.shim_plan_array(handle, which, None)
            arrays[name] = np.empty(size // np.dtype(dtype).itemsize, dtype)
            self.lib.shim_plan_array(handle, which, c.c_void_p(arrays[name].ctypes.data))
        self.lib.shim_plan_free(handle)
        return arrays

    def call(self, launcher: str, *arguments: Any, processors: int = 2, blocks: int = 4) -> list[Launch]:
        """Calls a launcher; returns its launches. Findings of the interpreter are raised."""
        self.launches = []
        self._error = None
        self.lib.fake_cudart_set(self._callback, processors, blocks)
        result = getattr(self.lib, launcher)(*arguments)
        if self._error is not None:
            raise self._error
        assert result == 0, f"{launcher} returned error {result}"
        return self.launches

    def _on_launch(self, kernel: bytes, grid: int, block: int, arguments: Any, shared: int, stream: Any) -> int:
        name = kernel.decode()
        try:
            parameters = self.module.info["entries"][name]["params"]
            values = [c.string_at(arguments[i], size) for i, (_, _, size, _, _) in enumerate(parameters)]
            self.module.launch(name, grid, block, values, shared=shared, **self.options)
        except Exception as error:  # a callback cannot raise through C
            self._error = error
            return 999
        self.launches.append(Launch(name, grid, block, sum(len(v) for v in values), dict(self.module.stats)))
        return 0
