"""Measures what each layer's forward and backward pass takes, in the passes in which all layers train.

Hooks on the blocks mark the moments: a block's forward pass begins and ends; the gradient of its output arrives, which
begins its backward pass; the gradient of the output of the layer below arrives, which ends it. So whatever the engine
does for a block is in, the recomputation of a checkpointed one too. On the CPU the host's clock counts, on a CUDA
device events on the stream, which are read passes later, when nobody waits for them any more.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LayerSelectError
from ..layers.model_hooks import ModelHook
from ..layers.view import ModelView
from .counted import LayerCosts

logger = logging.getLogger(__name__)

_WARM_UP = 1  # passes that allocate, compile and fill caches
_PASSES = 3  # begun after that, which are measured where they come to their end
_TURNS = 2  # passes between the last measured one and the look at its events
_TRIES = 3  # before the measurement is given up

Mark = Any  # a time in seconds, or a torch.cuda.Event


@dataclass
class _Pass:
    """The moments of one forward and backward pass. ``ends``: when nothing is left to do for the lowest layer."""

    start: Mark = None
    before: dict[int, Mark] = field(default_factory=dict)
    after: dict[int, Mark] = field(default_factory=dict)
    gradient: dict[int, Mark] = field(default_factory=dict)
    ends: Mark = None
    end: Mark = None
    whole: bool = True  # no block ran twice


class CostMeter:
    """Times the first passes in which all layers train, and then removes its hooks.

    The first such pass is left out; of the three that follow the median is taken, and the mean of that over the ranks
    of a distributed run, by one all-reduce: all ranks get the same numbers in the same pass. A block's backward time is
    split into the gradient of its input and those of its parameters in the ratio of the counted costs. A forward pass
    in evaluation mode, and one whose layers do not all train, is no pass. Where the blocks do not run once each in the
    order of the layers (shared blocks), nothing can be measured: after a few attempts the meter says so and stops.
    Compiled blocks are not seen at all.

    Args:
        view: the model. Its layers are on the CPU, or all on one CUDA device.
        counted: the counted costs, for the split, and for what every backward pass crosses.
        done: is given the measured costs, in seconds, at the beginning of a forward pass.

    Raises:
        LayerSelectError: the layers are on several devices, or on one whose work cannot be timed.
    """

    def __init__(self, view: ModelView, counted: LayerCosts, done: Callable[[LayerCosts], None]) -> None:
        devices = {p.device for layer in view.parameters for _, p in layer}
        if len(devices) > 1 or view.device.type not in ("cpu", "cuda"):
            raise LayerSelectError(
                "rule 'cost-aware': costs='measured' needs all layers on the CPU or on one CUDA device, not on "
                f"{', '.join(sorted(map(str, devices)))}: use costs='counted'"
            )
        self._view, self._counted, self._done = view, counted, done
        self._cuda = view.device.type == "cuda"
        self._layers = len(view.modules)
        self._pass: _Pass | None = None  # the one that runs
        self._start: Mark = None
        self._passes: list[_Pass] = []
        self._begun = 0  # passes in which all layers train
        self._later = 0  # passes begun since the last measured one
        self._tries = 0
        self._arriving: tuple[Tensor, torch.cuda.Event | None] | None = None
        self._handles = [view.model.register_forward_pre_hook(ModelHook(self._on_model, traced=False))]
        for layer, module in enumerate(view.modules):
            self._handles += [
                module.register_forward_pre_hook(
                    ModelHook(partial(self._on_block, layer), traced=False), with_kwargs=True
                ),
                module.register_forward_hook(ModelHook(partial(self._on_output, layer), traced=False)),
            ]

    def close(self) -> None:
        """Removes the hooks. May be called twice."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._passes, self._pass = [], [], None

    # ------------------------------------------------------------------ hooks

    def _on_model(self, module: Any, args: Any) -> None:
        if _counts(module):
            self._start = self._mark()

    def _on_block(self, layer: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not _counts(module):
            if self._pass is not None and _in_backward():
                # Recomputed: with reentrant checkpointing before the gradient of the output is seen.
                self._on_gradient(self._pass, layer)
            return
        if layer == 0:
            self._begin()
        running = self._pass
        if running is None:
            return
        running.whole &= layer == len(running.before)
        running.before[layer] = self._mark()
        if layer == 0:
            entering = _first_with_gradient([*args, *kwargs.values()])
            if entering is not None:  # the backward pass goes on below the layers
                entering.register_hook(lambda _: self._on_end_of_layers(running))

    def _on_output(self, layer: int, module: Any, args: Any, output: Any) -> None:
        running = self._pass
        if running is None or not _counts(module):
            return
        running.after[layer] = self._mark()
        leaving = _first_with_gradient([output])
        if leaving is not None:
            leaving.register_hook(lambda _: self._on_gradient(running, layer))

    def _on_gradient(self, running: _Pass, layer: int) -> None:
        if running is self._pass and layer not in running.gradient:
            running.whole &= layer == self._layers - 1 - len(running.gradient)
            running.gradient[layer] = self._mark()
            if layer == 0:
                torch.autograd.Variable._execution_engine.queue_callback(lambda: self._on_end(running))

    def _on_end_of_layers(self, running: _Pass) -> None:
        if running is self._pass and running.ends is None:
            running.ends = self._mark()

    def _on_end(self, running: _Pass) -> None:
        if running is self._pass:
            running.end = self._mark()
            if running.whole and len(running.after) == len(running.gradient) == self._layers:
                self._passes.append(running)
            self._pass = None

    # ------------------------------------------------------------------ from passes to costs

    def _begin(self) -> None:
        """A forward pass begins: of a pass to measure, or of one that gives time to look at the last ones."""
        self._pass = None
        if self._begun == _WARM_UP + _PASSES:
            self._later += 1
            if self._later == _TURNS:
                self._arriving = self._send()
            elif self._later > _TURNS:
                self._finish()
            return
        if not all(self._view.takes(p) for layer in self._view.parameters for _, p in layer):
            return
        self._begun += 1
        if self._begun > _WARM_UP:
            self._pass = _Pass(start=self._start)
        self._start = None

    def _send(self) -> tuple[Tensor, torch.cuda.Event | None]:
        """This rank's numbers, added up over the ranks, on their way to the host: float64 [2 L + 2], the last one says
        how many ranks have some.
        """
        rows = [row for row in map(self._row, self._passes) if all(seconds >= 0.0 for seconds in row)]
        rows = rows or [[0.0] * (2 * self._layers + 1)]
        own = [statistics.median(column) for column in zip(*rows, strict=True)]
        numbers = torch.tensor([*own, float(any(own))], dtype=torch.float64)
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not distributed or torch.distributed.get_world_size() == 1:
            return numbers, None
        if self._cuda:
            numbers = numbers.pin_memory().to(self._view.device, non_blocking=True)
        torch.distributed.all_reduce(numbers)
        if not self._cuda:
            return numbers, None
        on_host = torch.empty_like(numbers, device="cpu", pin_memory=True).copy_(numbers, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(self._view.device))
        return on_host, arrived

    def _finish(self) -> None:
        """Hands over the costs; or, where no rank has any, tries again."""
        assert self._arriving is not None
        numbers, arrived = self._arriving
        if arrived is not None:
            arrived.synchronize()
        *sums, ranks = numbers.tolist()
        self._tries += 1
        if ranks == 0.0:
            self._begun = self._later = 0
            self._passes.clear()
            if self._tries == _TRIES:
                logger.warning(
                    "rule 'cost-aware': the layers do not run once each, in their order, in a pass that trains all of "
                    "them, so their costs cannot be measured; the counted ones stay"
                )
                self.close()
            return
        self.close()
        self._done(self._costs([value / ranks for value in sums]))

    def _row(self, run: _Pass) -> list[float]:
        """[2 L + 1] seconds: the forward pass of each layer, the backward pass of each, everything else."""
        top = self._layers - 1
        between = self._between
        forward = [between(run.before[layer], run.after[layer]) for layer in range(top + 1)]
        bottom = run.end if run.ends is None else run.ends
        ends = [bottom, *(run.gradient[layer] for layer in range(top))]
        backward = [between(run.gradient[layer], ends[layer]) for layer in range(top + 1)]
        rest = between(run.after[top], run.gradient[top]) + between(bottom, run.end)
        rest += sum(between(run.after[layer], run.before[layer + 1]) for layer in range(top))
        if run.start is not None:
            rest += between(run.start, run.before[0])
        return [*forward, *backward, rest]

    def _costs(self, numbers: list[float]) -> LayerCosts:
        length = self._layers
        counted = self._counted
        forward, backward, rest = numbers[:length], numbers[length : 2 * length], numbers[-1]
        both = zip(counted.input_gradient, counted.weight_gradient, strict=True)
        shares = [mine / (through + mine) if mine else 0.0 for through, mine in both]
        own = [seconds * share for seconds, share in zip(backward, shares, strict=True)]
        through = [seconds - mine for seconds, mine in zip(backward, own, strict=True)]
        return LayerCosts(tuple(forward), tuple(through), tuple(own), rest, counted.crossed_from)

    def _mark(self) -> Mark:
        if not self._cuda:
            return time.perf_counter()
        if torch.cuda.is_current_stream_capturing():
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._view.device))
        return event

    def _between(self, earlier: Mark, later: Mark) -> float:
        """Seconds; NaN where a mark is missing."""
        if earlier is None or later is None:
            return math.nan
        if not self._cuda:
            return float(later - earlier)
        later.synchronize()  # recorded passes ago
        return float(earlier.elapsed_time(later)) / 1e3


def _counts(module: nn.Module) -> bool:
    """Whether this forward pass is one of training: neither evaluation, nor a recomputation, which belongs to the
    backward pass, nor the trace of a compiler.
    """
    return not torch.compiler.is_compiling() and module.training and not _in_backward()


def _in_backward() -> bool:
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _first_with_gradient(values: list[Any]) -> Tensor | None:
    """The first tensor that requires a gradient among ``values`` and what they hold."""
    for value in values:
        if isinstance(value, Tensor):
            if value.requires_grad:
                return value
        elif isinstance(value, (list, tuple)):
            found = _first_with_gradient(list(value))
            if found is not None:
                return found
        elif isinstance(value, dict):
            found = _first_with_gradient(list(value.values()))
            if found is not None:
                return found
    return None
