"""A selector's device memory in the interpreter: gradients, plan and state, and the launches of a step."""

from __future__ import annotations

import ctypes as c
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.ptx import structs
from tests.ptx.emulator import Emulator, Launch

STORAGE = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16, "float64": np.float64}


def encode(values: np.ndarray, dtype: str) -> np.ndarray:
    """As the bits of ``dtype``; bfloat16 is rounded to nearest even and kept in uint16."""
    if dtype != "bfloat16":
        with np.errstate(over="ignore"):
            return np.asarray(values).astype(STORAGE[dtype])
    bits = np.asarray(values).astype(np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def decode(bits: np.ndarray, dtype: str) -> np.ndarray:
    """The float64 values of ``encode``'s bits."""
    if dtype == "bfloat16":
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return bits.astype(np.float64)


@dataclass
class Gradient:
    """One tensor; ``offset`` elements after an address that is a multiple of 16. ``bits`` None: there is no
    gradient.
    """

    bits: np.ndarray | None
    dtype: str
    offset: int = 0

    @property
    def numel(self) -> int:
        return 0 if self.bits is None else self.bits.size

    def sqnorm(self) -> float:
        if self.bits is None:
            return 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            return float(np.sum(decode(self.bits, self.dtype) ** 2, dtype=np.longdouble))


class Norms:
    """The norm pass over some gradients. ``groups[i]`` is the group of gradient i."""

    def __init__(
        self,
        emulator: Emulator,
        gradients: Sequence[Gradient],
        groups: Sequence[int] | None = None,
        num_groups: int | None = None,
        numels: Sequence[int] | None = None,
    ) -> None:
        self.emulator = emulator
        module = emulator.module
        groups = [0] * len(gradients) if groups is None else list(groups)
        self.num_groups = max([*groups, 0]) + 1 if num_groups is None else num_groups
        sizes = [g.numel for g in gradients] if numels is None else list(numels)
        self.plan = emulator.plan(sizes, [g.dtype for g in gradients], groups, self.num_groups)
        self.buffers: list[Any] = []
        self.pointers = np.zeros(len(gradients), np.uint64)  # in the order of the gradients
        for i, gradient in enumerate(gradients):
            self.set(i, gradient)
        self.items = self._upload("items", read_only=True)
        self.units = self._upload("units", read_only=True)
        self.item_begin = self._upload("item_begin", read_only=True)
        self.group_begin = self._upload("group_begin", read_only=True)
        self.group_tensors = self._upload("group_tensors", read_only=True)
        self.partials = module.empty(max(len(self.plan["items"]), 1), np.float64, "partials")
        self.tensor_sums = module.empty(max(len(gradients), 1), np.float64, "tensor_sums")

    def set(self, index: int, gradient: Gradient) -> None:
        """Puts a gradient of the planned size in place of the one that is there."""
        self.pointers[index] = 0
        if gradient.bits is not None and gradient.numel:
            # Neighbours are NaN: whoever reads beyond the tensor and uses it is found out.
            padded = encode(np.full(gradient.numel + gradient.offset, np.nan), gradient.dtype)
            padded[gradient.offset :] = gradient.bits
            buffer = self.emulator.module.to_device(padded, f"gradient{index}", ro=True)
            assert buffer.ptr % 16 == 0
            self.buffers.append(buffer)
            self.pointers[index] = buffer.ptr + gradient.offset * padded.dtype.itemsize

    def launch(
        self,
        select: structs.SelectArgs | None = None,
        *,
        units: tuple[int, int] | None = None,
        max_blocks: int = 8,
        large_table: bool = True,
    ) -> list[Launch]:
        first, last = (0, len(self.plan["units"])) if units is None else units
        ordered = np.ascontiguousarray(self.pointers[self.plan["order"]])
        launch = structs.NormLaunch(
            self.items.ptr,
            self.units.ptr,
            self.partials.ptr,
            first,
            last,
            self.plan["unit_tensors"].ctypes.data,
            ordered.ctypes.data,
            max_blocks,
            int(large_table),
        )
        count = c.c_int32()
        chosen = None if select is None else c.byref(select)
        launches = self.emulator.call("layerselect_cuda_norms", c.byref(launch), chosen, None, c.byref(count))
        assert count.value == len(launches)
        return launches

    def tensor_sqnorms(self) -> np.ndarray:
        """The sums of the gradients, in their order, from the partials that are there."""
        partials, begin = self.partials.get(), self.plan["item_begin"]
        sums = np.zeros(len(self.plan["order"]))
        for t, parameter in enumerate(self.plan["order"]):
            sums[parameter] = partials[begin[t] : begin[t + 1]].sum()
        return sums

    def free(self) -> None:
        for buffer in (
            *self.buffers,
            self.items,
            self.units,
            self.item_begin,
            self.group_begin,
            self.group_tensors,
            self.partials,
            self.tensor_sums,
        ):
            buffer.free()

    def _upload(self, name: str, read_only: bool) -> Any:
        array = self.plan[name]
        return self.emulator.module.to_device(array if array.size else np.zeros(1, array.dtype), name, ro=read_only)


class State:
    """What a selector keeps on the device: everything in ``SelectArgs`` but the norm pass."""

    def __init__(self, emulator: Emulator, num_layers: int, *, history_rows: int = 4, numels: Any = None) -> None:
        module, n = emulator.module, num_layers
        self.emulator, self.num_layers, self.history_rows = emulator, n, history_rows
        initial: dict[str, np.ndarray] = {
            "scores": np.full(n, np.nan, np.float32),
            "status": np.full(n, 2, np.uint8),
            "nonfinite": np.zeros(n, np.int64),
            "decided": np.ones(n, np.uint8),
            "mask": np.ones(n, np.uint8),
            "wanted": np.ones(n, np.uint8),
            "gate": np.zeros(n + 1, np.float32),
            "frequency": np.zeros(2 * n, np.int64),
            "numels": np.ones(n) if numels is None else np.asarray(numels, np.float64),
            "group_sums": np.zeros(n + 1),
        }
        counters = structs.Counters(0, 0.0, np.nan, 0, np.nan, np.nan)
        initial["counters"] = np.frombuffer(bytes(counters), np.uint8)
        rows = max(history_rows, 1)
        history = {
            "history_step": ((rows,), np.int64),
            "history_threshold": ((rows,), np.float32),
            "history_scores": ((rows, n), np.float32),
            "history_mask": ((rows, n), np.uint8),
            "history_trained": ((rows, n), np.uint8),
        }
        self.buffers = {name: module.to_device(array, name) for name, array in initial.items()}
        self.buffers |= {name: module.empty(shape, dtype, name) for name, (shape, dtype) in history.items()}
        self.fixed = module.to_device(np.zeros(n, np.uint8), "fixed")
        self.costs = module.to_device(np.zeros(2 * n + 1), "costs")
        names = ("inv_scale", "late_inv_scale", "skip")
        self.scalars = {name: module.to_device(np.zeros(1, np.float32), name) for name in names}

    def get(self, name: str) -> np.ndarray:
        return self.buffers[name].get()

    @property
    def counters(self) -> structs.Counters:
        return structs.Counters.from_buffer_copy(self.get("counters").tobytes())

    def rule(
        self, kind: str, *, fixed: Sequence[bool] | None = None, costs: np.ndarray | None = None, **options: Any
    ) -> structs.Rule:
        if fixed is not None:
            self.fixed.set(np.asarray(fixed, np.uint8))
        if costs is not None:
            self.costs.set(np.asarray(costs, np.float64))
            options["costs"] = self.costs.ptr
        if "window" in options:
            options["window_lo"], options["window_hi"] = options.pop("window")
        return structs.Rule(kind=structs.RULES[kind], fixed=self.fixed.ptr, **options)

    def arguments(
        self,
        norms: Norms | None,
        rule: structs.Rule,
        *,
        form: str = "l2",
        warmup: int = 0,
        interval: int = 1,
        present: Sequence[bool] | None = None,
        active: Sequence[bool] | None = None,
        first_layer: int = 0,
        inv_scale: float | None = None,
        late: Sequence[bool] | None = None,
        late_inv_scale: float | None = None,
        skip: float | None = None,
        skip_nonfinite: bool = False,
    ) -> structs.SelectArgs:
        args = structs.SelectArgs()
        for name, buffer in self.buffers.items():
            setattr(args, name, buffer.ptr)
        if norms is not None:
            args.partials, args.item_begin = norms.partials.ptr, norms.item_begin.ptr
            args.tensor_sums = norms.tensor_sums.ptr
            args.group_begin, args.group_tensors = norms.group_begin.ptr, norms.group_tensors.ptr
            args.num_reduced = len(norms.plan["order"])
        for name, value in (("inv_scale", inv_scale), ("late_inv_scale", late_inv_scale), ("skip", skip)):
            if value is not None:
                self.scalars[name].set(np.asarray([value], np.float32))
                setattr(args, name, self.scalars[name].ptr)
        args.rule = rule
        args.warmup, args.interval, args.skip_nonfinite = warmup, interval, int(skip_nonfinite)
        args.first_layer = first_layer
        args.num_layers, args.history_rows, args.form = self.num_layers, self.history_rows, structs.FORMS[form]
        args.present.fill([True] * (self.num_layers + 1) if present is None else list(present))
        args.active.fill([True] * self.num_layers if active is None else list(active))
        args.late.fill([] if late is None else list(late))
        return args

    def close_step(self, args: structs.SelectArgs) -> list[Launch]:
        """The selection alone, in a launch of its own."""
        return self.emulator.call("layerselect_cuda_select", c.byref(args), None)
