"""Plain-PyTorch twins of the compiled core, with the same signatures.

They are the oracle of the tests and the backend of machines and devices without compiled kernels, written for
clearness: float64 (or exactly rounded sums) wherever that is possible, and no cleverness.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

EXCLUDED, MEASURED, NEVER_MEASURED = 0, 1, 2
MAX_LAYERS = 1024
TIE_TOLERANCE = 1e-12

_CHUNK = 1 << 20  # elements widened to float64 at a time
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def _sqnorm(tensor: Tensor | None, name: str) -> Tensor:
    """Sum of squares as a float64 scalar (float32 where the device has no float64)."""
    if tensor is None:
        return torch.zeros((), dtype=torch.float64)
    if tensor.layout != torch.strided:
        raise ValueError(
            f"{name} has layout {tensor.layout}; norms are taken of dense (strided) gradients only: use "
            f"sparse=False in the embedding it comes from"
        )
    if tensor.dtype not in _DTYPES:
        raise ValueError(
            f"{name} has dtype {tensor.dtype}; norms are taken of float32, float16, bfloat16 and float64 tensors only"
        )
    wide = torch.float32 if tensor.device.type == "mps" else torch.float64
    total = torch.zeros((), dtype=wide, device=tensor.device)
    for chunk in tensor.detach().reshape(-1).split(_CHUNK):
        chunk = chunk.to(wide)
        total += torch.dot(chunk, chunk)
    return total


def segment_sqnorm(
    tensors: Sequence[Tensor | None], segments: Tensor, num_segments: int, inv_scale: float | None = None
) -> Tensor:
    """See :func:`layerselect.ops.segment_sqnorm`."""
    if segments.dtype != torch.int64 or segments.dim() != 1:
        raise ValueError(
            f"segments has dtype {segments.dtype} and {segments.dim()} dimensions; it must be an int64 vector"
        )
    if segments.numel() != len(tensors):
        raise ValueError(
            f"segments has {segments.numel()} entries for {len(tensors)} tensors; give one segment for each"
        )
    if num_segments < 0:
        raise ValueError(f"num_segments is {num_segments}; it must not be negative")
    sums = torch.zeros(num_segments, dtype=torch.float64)
    for i, (tensor, segment) in enumerate(zip(tensors, segments.tolist(), strict=True)):
        if not 0 <= segment < num_segments:
            raise ValueError(f"segments[{i}] is {segment}; it must be in 0..{num_segments - 1}")
        sums[segment] += _sqnorm(tensor, f"tensors[{i}]").to("cpu", torch.float64)
    if inv_scale is not None:
        sums *= inv_scale * inv_scale
    return sums


def _ranked(scores: Tensor, status: Tensor) -> tuple[list[int], int, list[float]]:
    """(layers in rank order, how many of them are measured, all scores)."""
    if scores.dtype != torch.float32 or scores.dim() != 1:
        raise ValueError(f"scores has dtype {scores.dtype} and {scores.dim()} dimensions; it must be a float32 vector")
    if status.dtype != torch.uint8 or status.dim() != 1:
        raise ValueError(f"status has dtype {status.dtype} and {status.dim()} dimensions; it must be a uint8 vector")
    if scores.numel() != status.numel():
        raise ValueError(
            f"scores has {scores.numel()} entries and status {status.numel()}; there must be one status for each score"
        )
    if scores.numel() > MAX_LAYERS:
        raise ValueError(f"scores has {scores.numel()} entries; at most {MAX_LAYERS} layers can be ranked")
    values, states = scores.tolist(), status.tolist()
    for layer, (value, state) in enumerate(zip(values, states, strict=True)):
        if state not in (EXCLUDED, MEASURED, NEVER_MEASURED):
            raise ValueError(f"status[{layer}] is {state}; it must be 0 (excluded), 1 (measured) or 2 (never measured)")
        if state == MEASURED and not math.isfinite(value):
            raise ValueError(f"scores[{layer}] is {value}; a measured score must be finite")
    measured = sorted((i for i, s in enumerate(states) if s == MEASURED), key=lambda i: values[i])  # stable
    never = [i for i, s in enumerate(states) if s == NEVER_MEASURED]
    return measured + never, len(measured), values


def _selection(scores: Tensor, layers: Sequence[int], threshold: float) -> tuple[Tensor, Tensor]:
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[list(layers)] = True
    return mask.to(scores.device), torch.tensor(threshold, dtype=torch.float32, device=scores.device)


def _variance(values: Sequence[float]) -> float:
    """Population variance; exactly 0 for equal values."""
    shifted = [v - values[0] for v in values]
    mean = math.fsum(shifted) / len(shifted)
    return math.fsum((v - mean) ** 2 for v in shifted) / len(shifted)


def _cut(values: Sequence[float], lo: float, hi: float) -> int:
    """The number k of values below the cut of m >= 2 ascending values."""
    m = len(values)
    first, last = int(lo * m) + 1, int(hi * m) + 1
    while not any(1 <= k <= m - 1 for k in range(first, last + 1)):
        first, last = first - 1, last + 1
    costs = {k: _variance(values[:k]) + _variance(values[k:]) for k in range(max(first, 1), min(last, m - 1) + 1)}
    least = min(costs.values())
    return min(k for k, cost in costs.items() if cost <= least * (1.0 + TIE_TOLERANCE))


def variance_split(
    scores: Tensor, status: Tensor, window_lo: float, window_hi: float, inclusive: bool, splits: int
) -> tuple[Tensor, Tensor]:
    """The rule of DESIGN section 4 over layers of any status; see :func:`layerselect.ops.variance_split`."""
    ranked, num_measured, values = _ranked(scores, status)
    if not 0.0 <= window_lo <= window_hi <= 1.0:
        raise ValueError(f"window is ({window_lo}, {window_hi}); it must hold 0 <= low <= high <= 1")
    if not 1 <= splits <= MAX_LAYERS:
        raise ValueError(f"splits is {splits}; it must be at least 1 and at most {MAX_LAYERS}")
    selected, threshold = ranked[:num_measured], math.nan
    for _ in range(splits):
        if len(selected) < 2:
            threshold = values[selected[0]] if selected else math.nan
            break
        k = _cut([values[i] for i in selected], window_lo, window_hi)
        threshold = values[selected[k - 1]]
        selected = selected[k - 1 :] if inclusive else selected[k:]
    return _selection(scores, selected + ranked[num_measured:], threshold)


def top_ranked(scores: Tensor, status: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Selects the k highest ranked layers; the threshold is the lowest measured score among them, or NaN."""
    ranked, num_measured, values = _ranked(scores, status)
    if k < 0:
        raise ValueError(f"k is {k}; it must not be negative")
    first = max(len(ranked) - k, 0)
    threshold = values[ranked[first]] if first < num_measured else math.nan
    return _selection(scores, ranked[first:], threshold)


def above(scores: Tensor, status: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Selects the layers with a score of at least gamma (rounded to float32), and those never measured."""
    if math.isnan(gamma):
        raise ValueError("gamma is NaN; it must be a number")
    ranked, num_measured, values = _ranked(scores, status)
    gamma = torch.tensor(gamma, dtype=torch.float32).item()
    measured = [i for i in ranked[:num_measured] if values[i] >= gamma]
    return _selection(scores, measured + ranked[num_measured:], gamma)


class GradientMonitor:
    """Sums of squares of gradients, taken by Python hooks while the backward pass runs.

    Same semantics as the compiled one: hooks are an opportunity, and :meth:`finish` computes again whatever
    does not belong to the gradient that is there then (another tensor, or changed in place since). Parameters are
    referred to weakly; the compiled one holds them until it is closed.

    Args:
        parameters: leaves of floating point dtype, with or without ``requires_grad``.
        groups: the group (layer) of each, in ``0..num_groups-1``; a group is computed when its last gradient is in.
        num_groups: how many groups there are.
        owner: an object (the model) with whose end the monitor is closed.

    Attributes:
        sqnorms: float64 [P] on the CPU, the sum of squares of each parameter's gradient, live.
        rearmed: how many hooks had died and were put back.
        computed_in_backward: groups computed by hooks in the last step.
    """

    def __init__(
        self, parameters: Sequence[Tensor], groups: Sequence[int], num_groups: int, owner: object = None
    ) -> None:
        if len(groups) != len(parameters):
            raise ValueError(
                f"groups has {len(groups)} entries for {len(parameters)} parameters; give one group for each"
            )
        self.sqnorms = torch.zeros(len(parameters), dtype=torch.float64)
        self.rearmed = 0
        self.computed_in_backward = 0
        self._computed_now = 0
        self._lock = threading.RLock()
        self._closed = False
        self._parameters = [weakref.ref(p) for p in parameters]
        self._group_of = list(groups)
        self._members: list[list[int]] = [[] for _ in range(num_groups)]
        self._fired: list[set[int]] = [set() for _ in range(num_groups)]
        self._known: list[tuple | None] = [None] * len(parameters)
        self._handles: dict[int, RemovableHandle] = {}
        if owner is not None:
            self._owner = weakref.ref(owner, _closer(weakref.ref(self)))
        for i, (p, g) in enumerate(zip(parameters, groups, strict=True)):
            if not 0 <= g < num_groups:
                raise ValueError(f"groups[{i}] is {g}; it must be in 0..{num_groups - 1}")
            if not p.is_leaf:
                raise ValueError(f"parameters[{i}] is not a leaf: only leaves accumulate gradients")
            if not p.is_floating_point():
                raise ValueError(f"parameters[{i}] has dtype {p.dtype}; only floating point parameters have gradients")
            self._members[g].append(i)
            self._attach(i, p)

    def finish(self) -> list[int]:
        """Closes a step: ``sqnorms`` is right for every gradient there is now. Returns the groups with a gradient."""
        with self._lock:
            if self._closed:
                raise ValueError("the gradient monitor is closed; make a new one")
            measured = []
            for group, members in enumerate(self._members):
                alive = [(i, p) for i in members if (p := self._parameters[i]()) is not None]
                for i, p in alive:
                    hooks = getattr(p, "_post_accumulate_grad_hooks", None) or {}
                    if self._handles[i].id not in hooks:
                        self._attach(i, p)
                        self.rearmed += 1
                has_gradient = any(p.grad is not None for _, p in alive)
                trained = any(p.requires_grad for _, p in alive)
                self._fired[group].clear()
                if (has_gradient or trained) and not all(self._is_current(i, p) for i, p in alive):
                    self._compute(group)
                if has_gradient:
                    measured.append(group)
            self.computed_in_backward, self._computed_now = self._computed_now, 0
            return measured

    def close(self) -> None:
        """Removes every hook."""
        with self._lock:
            self._closed = True
            for handle in self._handles.values():
                handle.remove()

    def __del__(self) -> None:
        for handle in getattr(self, "_handles", {}).values():
            handle.remove()

    def _attach(self, i: int, parameter: Tensor) -> None:
        monitor = weakref.ref(self)

        def hook(_: Tensor) -> None:
            alive = monitor()
            if alive is not None:
                alive._on_gradient(i)

        frozen = not parameter.requires_grad
        if frozen:  # torch registers hooks on tensors that require a gradient only
            parameter.requires_grad_(True)
        self._handles[i] = parameter.register_post_accumulate_grad_hook(hook)
        if frozen:
            parameter.requires_grad_(False)

    def _is_current(self, i: int, parameter: Tensor) -> bool:
        known, gradient = self._known[i], parameter.grad
        if known is None or gradient is None:
            return known == (None,) and gradient is None
        return known[0] is not None and known[0]() is gradient and known[1:] == _identity(gradient)[1:]

    def _on_gradient(self, i: int) -> None:
        with self._lock:
            if self._closed:
                return
            group = self._group_of[i]
            fired = self._fired[group]
            fired.add(i)
            expected = [j for j in self._members[group] if (p := self._parameters[j]()) is not None and p.requires_grad]
            if len(fired) < len(expected):
                return
            fired.clear()
            try:
                self._compute(group)
                self._computed_now += 1
            except ValueError:
                # Must not break the user's backward pass; finish() meets the same error and raises it.
                self._known[i] = None

    def _compute(self, group: int) -> None:
        for i in self._members[group]:
            parameter = self._parameters[i]()
            if parameter is None:
                continue
            gradient = parameter.grad
            self._known[i] = None
            self.sqnorms[i] = _sqnorm(gradient, f"the gradient of parameter {i}").to("cpu", torch.float64)
            self._known[i] = (None,) if gradient is None else _identity(gradient)


def _identity(gradient: Tensor) -> tuple:
    return weakref.ref(gradient), gradient._version, gradient.data_ptr()


def _closer(monitor: weakref.ref[GradientMonitor]) -> Callable[[object], None]:
    def close(_: object) -> None:
        alive = monitor()
        if alive is not None:
            alive.close()

    return close
