"""csrc/cuda/step.h for ctypes. The tests compare the sizes with those of the compiler."""

from __future__ import annotations

import ctypes as c

MAX_LAYERS = 1024
DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2, "float64": 3}
FORMS = {"l2": 0, "rms": 1, "sqrt_sum": 2, "none": 3}
RULES = {"variance": 0, "top": 1, "threshold": 2, "all": 3, "fixed": 4}


class Rule(c.Structure):
    _fields_ = (
        ("kind", c.c_int32),
        ("inclusive", c.c_int32),
        ("splits", c.c_int32),
        ("k", c.c_int32),
        ("window_lo", c.c_double),
        ("window_hi", c.c_double),
        ("fixed", c.c_void_p),
        ("costs", c.c_void_p),
        ("budget", c.c_double),
        ("gamma", c.c_float),
    )


class GroupBits(c.Structure):
    _fields_ = (("words", c.c_uint32 * (MAX_LAYERS // 32 + 1)),)

    def fill(self, flags: list[bool]) -> None:
        self.words[:] = [0] * len(self.words)
        for i, flag in enumerate(flags):
            self.words[i // 32] |= int(flag) << (i % 32)


class Counters(c.Structure):
    _fields_ = (
        ("step", c.c_int64),
        ("total_norm", c.c_double),
        ("threshold", c.c_float),
        ("tickets", c.c_uint32),
        ("kept_share", c.c_float),
        ("step_cost", c.c_float),
    )


class SelectArgs(c.Structure):
    _fields_ = (
        *(
            (name, c.c_void_p)
            for name in (
                "partials",
                "item_begin",
                "tensor_sums",
                "group_begin",
                "group_tensors",
                "numels",
                "inv_scale",
                "late_inv_scale",
                "group_sums",
                "skip",
                "scores",
                "status",
                "nonfinite",
                "decided",
                "mask",
                "wanted",
                "gate",
                "frequency",
                "counters",
                "history_step",
                "history_threshold",
                "history_scores",
                "history_mask",
                "history_trained",
            )
        ),
        ("rule", Rule),
        ("warmup", c.c_uint32),
        ("interval", c.c_uint32),
        ("num_reduced", c.c_int32),
        ("num_layers", c.c_int32),
        ("history_rows", c.c_int32),
        ("first_layer", c.c_int32),
        ("form", c.c_int32),
        ("skip_nonfinite", c.c_int32),
        ("present", GroupBits),
        ("active", GroupBits),
        ("late", GroupBits),
    )


class NormLaunch(c.Structure):
    _fields_ = (
        ("items", c.c_void_p),
        ("units", c.c_void_p),
        ("partials", c.c_void_p),
        ("first_unit", c.c_uint32),
        ("last_unit", c.c_uint32),
        ("unit_tensors", c.c_void_p),
        ("data", c.c_void_p),
        ("max_blocks", c.c_int32),
        ("allow_large_table", c.c_int32),
    )


SIZES = (SelectArgs, NormLaunch, None, Counters, Rule)
