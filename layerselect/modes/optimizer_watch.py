"""What goes on between a selector and the optimizers attached to it: who steps, when, and who else moves weights."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from ..distributed.foreign_engines import IN_BACKWARD
from ..errors import LayerSelectError
from ..layers.model_hooks import ModelHook
from .ownership import holds
from .seen_gradients import SeenGradients
from .step_hooks import Closure, StepHooks
from .witnesses import Witnesses

logger = logging.getLogger(__name__)

#: The number of the backward pass that is running; -1 where none is.
_backward_pass = torch._C._current_graph_task_id


class OptimizerWatch:
    """Watches the steps of attached optimizers, from their attachment to the end of it.

    * An optimizer that steps with gradients of a backward pass after which ``selector.step()`` was not called would use
      the selection of another step: that is an error, raised before anything moves. A step without gradients of layers
      is let through, as a learning rate's scheduler wants it, and so are an optimizer that steps less often than the
      selector and one that steps again with the same gradients.
    * Two steps of the selector without one of any optimizer between them, and weights that move between the steps of
      the optimizers, are said once each, in a warning: there may be a good reason.

    It looks before the gates take gradients away for the time of a step, and after they have put everything back: it
    has to be made before the gates.

    Args:
        hooks: those on the steps of the attached optimizers.
        layers: for each layer, its parameters.
        names: of the layers.
        modules: of the layers. What ``load_state_dict`` on them changes is no surprise.
        seen: the selector's, which may have stepped before the optimizers were attached.
        governs: whether the selection decides what the optimizers may move, that is, whether the mode is not
            ``observe``.
    """

    def __init__(
        self,
        hooks: Sequence[StepHooks],
        layers: Sequence[Sequence[nn.Parameter]],
        names: Sequence[str],
        *,
        seen: SeenGradients,
        modules: Sequence[nn.Module] = (),
        governs: bool = True,
    ) -> None:
        self._names = list(names)
        self._governs = governs
        self._seen = seen
        ours = {id(p) for parameters in layers for p in parameters}
        self._steps = [_Steps(number, each, ours, self) for number, each in enumerate(hooks)]
        optimizers = [each.optimizer for each in hooks]
        self.some_stepped = True  # nothing is missing before the first step
        self._scalers_round: object = None
        self._warned_idle = self.warned_moved = False
        # Optimizers that switch between two sets of weights, as schedule-free ones do, move them in eval() and train().
        switching = any(callable(getattr(o, "eval", None)) and callable(getattr(o, "train", None)) for o in optimizers)
        self.witnesses = Witnesses([] if switching or not governs else layers, self._holders())
        loaded = weakref.WeakMethod(self._loaded)
        self._handles = [
            module.register_load_state_dict_post_hook(ModelHook(lambda *_: _call(loaded))) for module in modules
        ]

    @property
    def groups_changed(self) -> bool:
        """Whether parameters have entered or left an optimizer since it was attached, or since
        :meth:`accept_groups`.
        """
        return any(steps.groups_changed() for steps in self._steps)

    def accept_groups(self) -> None:
        """From now on :attr:`groups_changed` compares with what the optimizers hold now."""
        for steps in self._steps:
            steps.accept_groups()
        self.witnesses.hold(self._holders())

    def _holders(self) -> dict[int, int]:
        return {id(p): steps.number for steps in self._steps for p in steps.layered}

    def selector_stepped(self, grad_scale: float | Tensor | GradScaler | None = None) -> None:
        """To be called in each step of the selector, with what it was given.

        Where a scaler may have skipped the optimizer's step, its absence says nothing. A ``GradScaler`` whose
        ``update()`` was not called since the last step has skipped none: nobody asked it to.
        """
        stepped, self.some_stepped = self.some_stepped, False
        # In a closure, it is the optimizer that moves them.
        if not self.warned_moved and not any(steps.runs() for steps in self._steps):
            moved = self.witnesses.moved()
            if moved is None:
                self.witnesses.note()
            else:
                self.say_moved(moved)
        for steps in self._steps:
            steps.fresh = True
        skipped = grad_scale is not None
        if isinstance(grad_scale, GradScaler):
            enabled = grad_scale.is_enabled()
            last, self._scalers_round = self._scalers_round, grad_scale._per_optimizer_states if enabled else None
            skipped = enabled and last is not self._scalers_round
        if not (stepped or skipped or self._warned_idle):
            self._warned_idle = True
            logger.warning(
                "selector.step() was called twice and no attached optimizer (%s) has stepped in between, so each "
                "call measured and selected for nothing: with gradient accumulation call it only before a real step "
                "of the optimizer (in accelerate, `selector.step(accelerator)`), and attach the "
                "optimizer that really steps, not one that was built anew since, or that another one replaces",
                ", ".join(dict.fromkeys(type(steps.optimizer).__name__ for steps in self._steps)),
            )

    def captured(self) -> None:
        """A step of the selector was captured in a CUDA graph: of what its replays measure and move, nothing is seen
        here.
        """
        self._seen.replayed = self._warned_idle = self.warned_moved = True

    def close(self) -> None:
        """Removes the hooks."""
        for steps in self._steps:
            steps.close()
        for handle in self._handles:
            handle.remove()

    # ------------------------------------------------------------------ told by the steps

    def check_order(self, steps: _Steps) -> None:
        """Raises LayerSelectError if this step, which has gradients of layers, comes without one of the selector."""
        if self._governs and _backward_pass() != -1:
            raise LayerSelectError(f"{type(steps.optimizer).__name__} {IN_BACKWARD}")
        if self._governs and not steps.fresh and not self._seen.are_there():
            raise LayerSelectError(
                f"{type(steps.optimizer).__name__}.step() was called with gradients that selector.step() has not "
                "seen, so the selection of another step would decide what it trains: call selector.step() once in "
                "every step, after the last loss.backward() and before optimizer.step() (interval= makes it select "
                "more rarely)"
            )
        steps.used = True

    def say_moved(self, layer: int) -> None:
        self.warned_moved = True
        logger.warning(
            "weights of layer %r were moved outside of the attached optimizer's step(), where a selection has no "
            "say, so layers that are not selected may train: attach every optimizer that steps, and do without "
            "what moves weights on its own (Lookahead, SAM in two calls, averaged weights, an optimizer that "
            "steps inside the backward pass), or use mode='observe'",
            self._names[layer],
        )

    def _loaded(self) -> None:
        self.witnesses.forget()


class _Steps:
    """The steps of one optimizer."""

    __slots__ = ("_held", "_hooks", "_ours", "_watch", "fresh", "layered", "number", "optimizer", "used")

    def __init__(self, number: int, hooks: StepHooks, ours: set[int], watch: OptimizerWatch) -> None:
        self.number = number
        self.optimizer = hooks.optimizer
        self.fresh = False  #: the selector has stepped since this optimizer did
        self.used = False  #: the step that is running has gradients that were selected by it
        self._ours = ours
        self._watch = watch
        self._hooks = hooks
        self.accept_groups()
        hooks.add(self._before, self._after)

    def close(self) -> None:
        self._hooks.remove(self._before, self._after)

    def accept_groups(self) -> None:
        self._held = [list(group["params"]) for group in self.optimizer.param_groups]
        self.layered = [p for held in self._held for p in held if id(p) in self._ours]

    def groups_changed(self) -> bool:
        return not holds(self.optimizer.param_groups, self._held)

    def runs(self) -> bool:
        return self._hooks.runs()

    def _before(self, closure: Closure | None) -> Closure | None:
        self.used = False
        watch = self._watch
        if closure is None:
            for p in self.layered:
                if p.grad is not None:
                    if self.fresh and _backward_pass() == -1:
                        self.used = True
                    else:
                        watch.check_order(self)
                    break
        watch.some_stepped = True
        if not watch.warned_moved:
            moved = watch.witnesses.moved(self.number)
            if moved is not None:
                watch.say_moved(moved)
        if closure is None:
            return None

        def checked() -> Any:
            # selector.step() may stand in the closure, behind the backward pass.
            loss = closure()
            if any(p.grad is not None for p in self.layered):
                watch.check_order(self)
            return loss

        return checked

    def _after(self) -> None:
        # A step that finds nothing to do leaves the selection to the next.
        self.fresh = self.fresh and not self.used
        watch = self._watch
        watch.some_stepped = True
        if not watch.warned_moved:
            # With other parameters than it had, it may have moved what another optimizer answers for.
            watch.witnesses.note(self.number if holds(self.optimizer.param_groups, self._held) else None)


def _call(method: weakref.WeakMethod[Callable[[], None]]) -> None:
    function = method()
    if function is not None:
        function()
