"""Mode ``freeze``: while a frozen layer computes, its parameters require no gradient; at any other time they are the
user's.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import nn

from ..distributed.sharding import is_sharded
from ..layers.model_hooks import ModelHook
from ..layers.requires_grad import switch_off, switch_on
from ..layers.stacks import called_modules, has_forward
from .optimizer_steps import OptimizerSteps
from .selective_checkpoint import Plan
from .switched_passes import SwitchedPasses

logger = logging.getLogger(__name__)

#: So many steps of one optimizer without a step of the selector are no loop with a selector. One is: that behind the
#: step.
_UPDATES_WITHOUT_STEP = 2


class LayerFreezer(Plan):
    """Keeps autograd away from the layers that a plan leaves out.

    Autograd looks at ``requires_grad`` when an operation runs in the forward pass. So it is enough that a layer's flags
    are off from the call of its module to its return, and in the backward pass, where checkpoints run the layer again,
    from the layer on to the end: no weight gradient is computed, what that would need is not saved, and the backward
    pass ends at the lowest layer that trains. Everybody else sees the flags as the user set them: a copy of the model,
    a new optimizer, ``peft`` when it switches adapters, a run that was interrupted.

    Parameters of the layers that nobody follows, since the user had frozen them, take no gradient either, whoever
    switches them on. Their flags are compared in ``step()``; here it is only made sure that a pass trains nothing
    unknown.

    Where parameters are sharded, and where the model is compiled, flags cannot change in the middle of a pass. There
    they *stand*: they are switched when a plan is made, and switched again at the start of a pass if somebody else has
    switched them back.

    Args:
        modules: the block of each layer.
        layers: for each layer, its parameters that are followed.
        others: blocks like the layers' of which no parameter is followed.
        compiled: whether the model is compiled.

    Attributes:
        floor: layers below it never take gradients, whatever is asked for.
        standing: whether flags stand.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        layers: Sequence[Sequence[nn.Parameter]],
        *,
        others: Sequence[nn.Module] = (),
        compiled: bool = False,
    ) -> None:
        self.floor = 0
        self._compiled = compiled
        self.standing = compiled or any(is_sharded(p) for parameters in layers for p in parameters)
        # The model holds this object through its hooks; that it does not hold the model lets both go at once.
        self._modules = [weakref.ref(module) for module in (*modules, *others)]
        self._active = [True] * len(layers)
        self._planned: list[bool] | None = None  # what is held back
        self._handles: list[Any] = []
        self._passes = SwitchedPasses(len(self._modules), self._to_switch, self._passed_without_gradients)
        self._stood: list[list[nn.Parameter]] = [[] for _ in self._modules]
        self._deep: set[int] = set()  # layers whose own module is not called
        self._stale: set[int] = set()  # layers whose gradients may be left over
        self._dipped = [False] * len(layers)
        self._standing_down = False
        self._steps: OptimizerSteps | None = None
        self.follow(layers)

    # ------------------------------------------------------------------ the plan

    @property
    def active(self) -> list[bool]:
        """Which layers take gradients."""
        return list(self._active)

    @property
    def planned(self) -> list[bool]:
        """Which layers are to take gradients; what is held back included."""
        return self.active if self._planned is None else list(self._planned)

    @property
    def held(self) -> bool:
        """Whether :meth:`apply` only takes note."""
        return self._planned is not None

    def hold(self) -> None:
        """From now on :meth:`apply` only takes note, until :meth:`release`."""
        self._planned = self.planned

    def release(self) -> None:
        """Applies what was held back."""
        planned, self._planned = self._planned, None
        if planned is not None:
            self.apply(planned)

    def apply(self, active: Sequence[bool]) -> None:
        """Lets exactly the layers marked in ``active`` take gradients in the next backward pass, less those below the
        floor.
        """
        active = [bool(wanted) and index >= self.floor for index, wanted in enumerate(active)]
        if self._planned is not None:
            self._planned = active
            return
        # What a layer that stops has now may stay there, as zeros, until the next step: it is not of a later pass.
        self._stale |= {
            index
            for index, (was, wanted) in enumerate(zip(self._active, active, strict=True))
            if was and not wanted and any(p.grad is not None for p in self._layers[index])
        }
        self._active = active
        self._off = {id(p) for index, wanted in enumerate(active) if not wanted for p in self._layers[index]}
        if self.standing:
            self.activate()

    def takes(self, parameter: nn.Parameter) -> bool:
        """Whether ``parameter`` takes gradients by the user's flag and by the plan."""
        return parameter.requires_grad and (self._standing_down or id(parameter) not in self._off)

    def trains(self, module: nn.Module) -> bool:
        """Whether some parameter of ``module`` does."""
        return any(self.takes(parameter) for parameter in module.parameters())

    # ------------------------------------------------------------------ between passes

    def follow(self, layers: Sequence[Sequence[nn.Parameter]]) -> None:
        """Goes on with other parameters in the place of the old ones."""
        self._passes.heal()
        self._layers = [list(parameters) for parameters in layers]
        followed = {id(p) for parameters in self._layers for p in parameters}
        self._strangers = [
            [] if module is None else [p for p in module.parameters() if id(p) not in followed]
            for module in (reference() for reference in self._modules)
        ]
        if self._steps is not None:
            self._steps.follow(p for parameters in self._layers for p in parameters)
        self.apply(self.planned)

    def install(self, model: nn.Module) -> None:
        """From now on the plan is in force in every pass of ``model``, the module that contains the layers."""
        if self._steps is None:
            self._steps = OptimizerSteps(self._optimizer_stepped)
            self._steps.follow(p for parameters in self._layers for p in parameters)
        if self.standing:
            if not self._compiled:  # in front of the hooks of fully_shard
                again = ModelHook(lambda *_: self.activate())
                self._handles.append(model.register_forward_pre_hook(again, prepend=True))
            self._hook_copies()
            self.activate()
        else:
            self._hook_layers()

    def _hook_layers(self) -> None:
        for layer, reference in enumerate(self._modules):
            module = reference()
            if module is not None:
                points = _called_inside(module) if layer in self._deep else called_modules(module)
                for point in points:
                    enter = functools.partial(self._passes.enter, layer)
                    hook = ModelHook(enter, functools.partial(self._lent, layer), traced=False)
                    self._handles.append(point.register_forward_pre_hook(hook, prepend=True))
                    hook = ModelHook(functools.partial(self._passes.leave, layer), traced=False)
                    self._handles.append(point.register_forward_hook(hook, always_call=True))

    def _hook_copies(self) -> None:
        """Where flags stand, copies of the model get them as the user set them."""
        for layer, reference in enumerate(self._modules):
            module = reference()
            if module is not None:
                hook = ModelHook(_nothing, functools.partial(self._lent, layer), traced=False)
                self._handles.append(module.register_forward_hook(hook))

    def _lent(self, layer: int) -> list[nn.Parameter]:
        """What is switched off in a layer at the moment."""
        return [*self._stood[layer], *self._passes.off(layer)]

    def drop_gradients(self, keep: Sequence[bool]) -> None:
        """Drops the gradients of the layers not in ``keep``, so that no optimizer moves them in this step."""
        for parameters, kept in zip(self._layers, keep, strict=True):
            if not kept:
                for parameter in parameters:
                    parameter.grad = None

    def switched(self) -> list[bool]:
        """Says for each layer whether, since the last call, a pass found all its parameters switched off by somebody
        else, as they are while ``peft`` has disabled an adapter or uses another one.
        """
        dipped, self._dipped = self._dipped, [False] * len(self._layers)
        return dipped

    def stepped(self) -> None:
        """The selector closes a step."""
        self._passes.heal()
        if not self._standing_down:
            self._look_deeper()
        self._standing_down = False
        if self._steps is not None:
            self._steps.reset()
        if self.standing:
            self.activate()

    def activate(self) -> None:
        """Makes standing flags what the plan says."""
        if self._standing_down:
            return
        for index, wanted in enumerate(self._active):
            if wanted:
                switch_on(self._stood[index])
                self._stood[index] = []
            else:
                self._stood[index] += switch_off(self._layers[index])

    def make_standing(self) -> None:
        """The model turned out to be compiled: flags stand from now on."""
        self._unhook()
        self._compiled = self.standing = True
        self._hook_copies()
        self.activate()

    def close(self) -> None:
        """Takes every hook away and leaves every flag to the user."""
        self._unhook()
        if self._steps is not None:
            self._steps.close()
        self._planned, self.floor = None, 0
        self.apply([True] * len(self._layers))

    def _unhook(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._passes.heal()

    # ------------------------------------------------------------------ asked by the passes, and told by optimizers

    def _to_switch(self, layer: int) -> Iterator[nn.Parameter]:
        """What must not take a gradient in a pass of this layer."""
        if not self._standing_down:
            yield from self._strangers[layer]
            if layer < len(self._layers) and not self._active[layer]:
                yield from self._layers[layer]

    def _passed_without_gradients(self, layer: int) -> None:
        if layer < len(self._layers):
            self._dipped[layer] |= not any(p.requires_grad for p in self._layers[layer])

    def _optimizer_stepped(self, times: int) -> None:
        """Whether the model trains on though the selector's steps have ended, as after an interruption. Then nothing is
        held back.
        """
        if times >= _UPDATES_WITHOUT_STEP and not self._standing_down and not all(self._active):
            self._standing_down = True
            for stood in self._stood:
                switch_on(stood)
            logger.warning(
                "an optimizer has stepped %d times without selector.step(), so the selector holds no layer back "
                "until it is called again: call selector.close() where a training ends, or use the selector in a "
                "with statement",
                times,
            )

    def _look_deeper(self) -> None:
        """Some models call the parts of a block one by one, and not the block: then its parts are hooked."""
        if self.standing or not self._handles:
            return
        # A gradient in a frozen layer: its module was not called in that pass.
        deeper = {
            layer
            for layer, parameters in enumerate(self._layers)
            if not self._active[layer]
            and layer not in self._deep | self._stale
            and any(p.grad is not None for p in parameters)
        }
        self._stale.clear()
        if deeper:
            self._deep |= deeper
            self._unhook()
            self._hook_layers()


def _nothing(*_: Any) -> None:
    """For a hook that is there for what it does in copies."""


def _called_inside(module: nn.Module) -> Iterable[nn.Module]:
    """Everything in ``module`` that can be called and has parameters of its own."""
    return [m for m in module.modules() if m._parameters and has_forward(m)]
