"""How a selector keeps up with what others do to its model and its optimizers between two steps."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn

from ..core.graph_capture import check_capture, is_capturing
from ..errors import LayerSelectError
from ..layers.find import LayeredParameters
from ..modes.compiled import compiled_autograd_on
from ..modes.gate import parameters_of
from ..modes.optimizers import check_parameters
from ..modes.resolve import resolve_capture
from ..modes.seen_gradients import SeenGradients
from .assembly import Assembly
from .attachment import Attachment
from .memory_by_part import PartMemory, memory_by_part
from .user_flags import UserFlags

logger = logging.getLogger(__name__)

#: Steps between two thorough looks for parameters that were added. They are found earlier where an optimizer is given
#: them, or torch tells of them.
_LOOK_EVERY = 50


class Upkeep(Assembly, ABC):
    """Part of :class:`~layerselect.FastSelector`: parameters that were replaced, frozen, unfrozen or added, optimizers,
    compilers.
    """

    on_freeze: str
    _flags: UserFlags
    _seen: SeenGradients
    _attachment: Attachment | None
    _asked_capture: str
    _may_gate: bool
    _captured: bool
    _closed: bool
    _frozen_layers: list[bool]

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where :meth:`state_dict` was taken."""

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Every parameter that may train in any step, outer ones included: what an optimizer must be given."""
        if not self._closed:
            self._follow_replaced_parameters()
        return self.held_parameters()

    def memory_by_part(self) -> list[PartMemory]:
        """What the layers, the embeddings, the head and the rest hold for their training now, in this process: bytes of
        weights, of gradients, and of what the attached optimizers keep. Nothing waits for a device.

        A selection makes gradients (mode ``freeze``) and optimizer state (``on_freeze="reset"``) of layers smaller;
        what embeddings and head hold stays.
        """
        return memory_by_part(self._model, self._found, self._optimizers)

    @property
    def _optimizers(self) -> list[torch.optim.Optimizer]:
        return [] if self._attachment is None else self._attachment.optimizers

    def _tie(self, optimizers: list[torch.optim.Optimizer]) -> None:
        self._detach()
        layers = parameters_by_layer(self._found)
        self._attachment = Attachment(
            optimizers,
            layers,
            names=self.layer_names,
            modules=self._found.modules,
            seen=self._seen,
            mode=self.mode,
            on_freeze=self.on_freeze,
            core=self._core,
            freezer=self._freezer,
        )
        self._holdings.hold("optimizers", self._attachment.close)

    def _follow_replaced_parameters(self) -> None:
        """Moves to the new objects where parameters were replaced."""
        found = self._places.look()
        if found is not None:
            if self._optimizers:
                check_parameters(self._optimizers, [pair for layer in found.layers for pair in layer] + found.outer)
            # It may be fully_shard() that replaced them.
            self.capture = resolve_capture(self._asked_capture, self._model)
            logger.warning("parameters of the model were replaced; the selector follows the new ones")
            self._follow(found)

    def _follow_users_flags(self, optimizers: list[torch.optim.Optimizer]) -> None:
        """Follows what others did to ``requires_grad``, and parameters that began to train."""
        freezer = self._freezer
        found = self._flags.look(
            freezer.switched(),
            [freezer.standing and not active for active in freezer.active],
            lambda: set().union(*map(parameters_of, optimizers)) if optimizers else None,
            thoroughly=self._looks_thoroughly(),
        )
        if found is not None:
            self._follow(found)
        frozen = self._flags.frozen_layers()
        if frozen == self._frozen_layers:
            return
        for layer in range(self.num_layers):
            if frozen[layer] and not self._frozen_layers[layer]:
                # What it scored would go on to be selected; a layer that cannot be measured is not.
                self._core.state["scores"][layer] = float("nan")
        self._frozen_layers = frozen

    def _looks_thoroughly(self) -> bool:
        """Whether parameters may have been added to the model."""
        if self._step % _LOOK_EVERY == 0:
            return True
        if self._attachment is None:
            return self._registrations.happened()
        changed = self._attachment.watch.groups_changed
        if changed:
            self._attachment.watch.accept_groups()
        return changed

    def _follow(self, found: LayeredParameters) -> None:
        """Goes on with other parameters in the same layers."""
        state, optimizers = self.state_dict(), self._optimizers
        self._detach()
        self._core.close()
        self._freezer.follow(parameters_by_layer(found))
        self._found = found
        self.layer_sizes = [sum(p.numel() for _, p in layer) for layer in found.layers]
        self._flags.follow(found)
        self._rule.prepare(self._view())
        self._build_core()
        self.load_state_dict(state)
        if optimizers:
            self._tie(optimizers)

    def _look_for_a_capture(self) -> None:
        """A step that is captured in a CUDA graph."""
        if not is_capturing(self._device):
            return
        check_capture(
            self._rule,
            [p for _, p in self._all_parameters()],
            mode=self.mode,
            decides_on_device=self._core.decides_on_device,
            steps=self._step,
        )
        self._captured = True
        if self._attachment is not None:
            self._attachment.watch.captured()

    def _look_for_a_compiler(self) -> None:
        """A model that turns out to be compiled, or that runs backward passes compiled, after the selector was
        built.
        """
        if self.capture == "backward" and compiled_autograd_on():
            raise LayerSelectError(
                "compiled autograd was switched on after the selector was built, and it runs none of the hooks that "
                "measure gradients: build the selector with capture='step'"
            )
        reason = None if self._watch is None else self._watch.look()
        if reason is None or self._watch is None:
            return
        self._watch.close()
        self._watch = None
        if not self._may_gate:
            logger.warning(
                "mode='freeze' was asked for, but %s: mode='gate' gives the same selection without that", reason
            )
            self._freezer.make_standing()
            return
        logger.warning("mode 'auto' means 'gate' from here on: %s", reason)
        self.mode = "gate"
        self._freezer.close()
        self._boundary.close()

    def _detach(self) -> None:
        if self._attachment is not None:
            self._attachment.close()
            self._holdings.hold("optimizers", _nothing)
        self._attachment = None


def parameters_by_layer(found: LayeredParameters) -> list[list[nn.Parameter]]:
    """The parameters of each layer, without their names."""
    return [[p for _, p in layer] for layer in found.layers]


def _nothing() -> None:
    """What is left to end."""
