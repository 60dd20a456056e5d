"""Hooks in Python that tell when a backward pass has ended, and which parameters took gradients in it.

A backward pass has ended when the engine's own callbacks have run: ``DistributedDataParallel`` copies averaged
gradients back in one, ``fully_shard`` waits for its last reduction in one. These callbacks are queued while the pass
runs, some of them by another callback. So ours goes to the back of the queue a few times before it acts.
"""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

# Of DistributedDataParallel with a static graph, a callback queues a callback. One turn more than that needs.
_TURNS = 3


class BackwardEnd:
    """Watches parameters, and calls when a backward pass has ended that gave gradients to some of them.

    Hooks work for plain parameters, under ``DistributedDataParallel``, for the shards of ``fully_shard`` and under
    compiled autograd. A backward pass that runs inside another one, as reentrant checkpointing makes one for each
    block, ends with the outer one. Compiled autograd runs no callbacks: there a parameter is reported as soon as its
    gradient is there.

    Args:
        parameters: leaves, referred to weakly, with or without ``requires_grad``.
        on_end: a method, referred to weakly. It is called with the parameters that took gradients since the last call,
            on whatever thread the backward pass ends on.

    Attributes:
        pending: parameters that took a gradient and were not handed to ``on_end`` yet: the backward pass broke off.
        fired: parameters that took a gradient since :meth:`look`.
        rearmed: how many hooks had died and were put back, since the beginning.
    """

    def __init__(self, parameters: Sequence[Tensor], on_end: Callable[[set[int]], None]) -> None:
        self.lock = threading.RLock()
        self.pending: set[int] = set()
        self.fired: set[int] = set()
        self.rearmed = 0
        self._on_end = weakref.WeakMethod(on_end)
        self._parameters = [weakref.ref(p) for p in parameters]
        self._open: set[int] = set()  # the engine's numbers of the passes that will call back
        self._handles: dict[int, RemovableHandle] = {}
        self._closed = False
        for index, parameter in enumerate(parameters):
            self._attach(index, parameter)

    def look(self) -> tuple[set[int], set[int]]:
        """Begins a new step: returns the parameters that took gradients, and those whose hooks had died and are put
        back.
        """
        with self.lock:
            self._open.clear()  # a pass that ended in an exception never calls back
            fired, self.fired = self.fired, set()
            dead = set()
            for index, reference in enumerate(self._parameters):
                parameter = None if index in fired else reference()
                if parameter is not None and self._handles[index].id not in (
                    parameter._post_accumulate_grad_hooks or {}
                ):
                    self._attach(index, parameter)
                    dead.add(index)
            self.rearmed += len(dead)
            return fired, dead

    def close(self) -> None:
        """Removes every hook."""
        with self.lock:
            self._closed = True
            for handle in self._handles.values():
                handle.remove()
            self._handles.clear()
            self.pending.clear()

    def __del__(self) -> None:
        for handle in getattr(self, "_handles", {}).values():
            handle.remove()

    def _attach(self, index: int, parameter: Tensor) -> None:
        frozen = not parameter.requires_grad
        if frozen:  # torch registers hooks on tensors that require a gradient only
            parameter.requires_grad_(True)
        self._handles[index] = parameter.register_post_accumulate_grad_hook(self._calling("_on_gradient", index))
        if frozen:
            parameter.requires_grad_(False)

    def _calling(self, method: str, *arguments: Any) -> Callable[..., None]:
        """What calls a method of this object if it is still there, and keeps it from being compiled."""
        return functools.partial(_call(), weakref.ref(self), method, *arguments)

    def _on_gradient(self, index: int, _: Tensor) -> None:
        with self.lock:
            if self._closed:
                return
            self.fired.add(index)
            self.pending.add(index)
            self._call_at_end()

    def _call_at_end(self) -> None:
        """Sees to it that the end of the backward pass that is running is noticed."""
        task = torch._C._current_graph_task_id()
        if task in self._open:
            return
        if _under_compiled_autograd():
            self._report()
        elif task >= 0:
            self._open.add(task)
            self._queue(task, _TURNS)

    def _queue(self, task: int, turns: int) -> None:
        torch.autograd.Variable._execution_engine.queue_callback(self._calling("_on_callback", task, turns))

    def _on_callback(self, task: int, turns: int) -> None:
        if turns > 0:
            self._queue(task, turns - 1)
        else:
            self._ended(task)

    def _ended(self, task: int) -> None:
        with self.lock:
            self._open.discard(task)
            if self._closed or not self.pending:
                return
            node = torch._C._current_autograd_node()
            if node is None or not self._wait_for_outer(node):
                self._report()

    def _wait_for_outer(self, node: Any) -> bool:
        """The pass that ended was run by ``node`` of another pass. The end of that one is noticed from its next
        node.
        """
        following = next((function for function, _ in node.next_functions if function is not None), None)
        if following is None:
            return False
        handles: list[RemovableHandle] = []
        handles.append(following.register_prehook(self._calling("_on_outer", handles)))
        return True

    def _on_outer(self, handles: list[RemovableHandle], _: Any) -> None:
        with self.lock:
            handles.pop().remove()
            self._call_at_end()

    def _report(self) -> None:
        fired, self.pending = self.pending, set()
        on_end = self._on_end()
        if on_end is not None:
            on_end(fired)


@functools.cache
def _call() -> Callable[..., None]:
    def call(watch: weakref.ref[BackwardEnd], method: str, *arguments: Any) -> None:
        alive = watch()
        if alive is not None:
            getattr(alive, method)(*arguments)

    uncompiled: Callable[..., None] = torch.compiler.disable(call)
    return uncompiled


def _under_compiled_autograd() -> bool:
    module = sys.modules.get("torch._dynamo.compiled_autograd")
    return module is not None and module.in_compiled_autograd_region
