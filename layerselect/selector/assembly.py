"""How a selector is put together: its core, its rule, and what it puts on the model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..core.base import Core, CoreSettings
from ..core.schedule import Schedule
from ..core.step import make_core
from ..distributed.agreement import Agreement
from ..layers.find import LayeredParameters
from ..layers.registrations import Registrations
from ..layers.view import ModelView
from ..modes.checkpointing import CheckpointBoundary
from ..modes.compiled import CompileWatch
from ..modes.engine_watch import EngineWatch
from ..modes.freeze import LayerFreezer
from ..rules import Rule
from ..state_cache.selection import CacheSelection
from .backward_plan import BackwardPlan
from .holdings import Holdings
from .parameter_places import ParameterPlaces


class Assembly:
    """Part of :class:`~layerselect.FastSelector`: builds the parts of a selector, and notes how each is taken away."""

    mode: str
    capture: str
    backend: str
    score: str
    num_layers: int
    layer_names: list[str]
    layer_sizes: list[int]
    schedule: Schedule
    _model: nn.Module
    _found: LayeredParameters
    _places: ParameterPlaces
    _core: Core
    _rule: Rule
    _plan: BackwardPlan
    _cache: CacheSelection
    _agreement: Agreement
    _registrations: Registrations
    _freezer: LayerFreezer
    _engine: EngineWatch
    _boundary: CheckpointBoundary
    _watch: CompileWatch | None
    _holdings: Holdings
    _keep_history: int | str | Path
    _device: torch.device
    _step: int

    def held_parameters(self) -> list[nn.Parameter]:
        """Every parameter that may train in any step, as the selector last found them."""
        return [p for _, p in self._all_parameters()]

    def _start(self, model: nn.Module) -> None:
        """Puts on the model what the mode needs."""
        freezer = self._freezer
        self._holdings.hold("rule", self._rule.close)
        self._holdings.hold("registrations", self._registrations.close)
        self._engine = EngineWatch(model, freezer, mode=self.mode, capture=self.capture)
        self._holdings.hold("engine", self._engine.close)
        self._holdings.hold("agreement", self._agreement.close)
        self._holdings.hold("freezer", freezer.close)
        self._holdings.hold("state_cache", self._cache.close)
        if self.mode == "freeze":
            self._cache.activate(freezer)
            self._plan.prepare(self._rule, self._step)
            freezer.install(model)
            self._boundary = CheckpointBoundary(model, self._found.modules, freezer)
            self._holdings.hold("boundary", self._boundary.close)
            self._watch = CompileWatch(model, self._found.modules)
            self._holdings.hold("compiler", self._watch.close)

    def _prepared(self, rule: Rule) -> Rule:
        rule.bind(self.layer_names, self.backend)
        rule.prepare(self._view())
        return rule

    def _view(self) -> ModelView:
        found = self._found
        return ModelView(self._model, found.names, found.modules, found.layers, self._device, self._freezer.takes)

    def _build_core(self) -> None:
        """Hooks the parameters, one group per layer and a last one for the outer parameters."""
        groups = [i for i, layer in enumerate(self._found.layers) for _ in layer]
        groups += [self.num_layers] * len(self._found.outer)
        parameters = [p for _, p in self._all_parameters()]
        self._core = make_core(
            CoreSettings(
                parameters=parameters,
                groups=groups,
                layer_names=self.layer_names,
                numels=self.layer_sizes,
                device=self._device,
                score=self.score,
                capture=self.capture,
                backend=self.backend,
                schedule=self.schedule,
                owner=self._model,
                history=self._keep_history,
            ),
            self._rule,
        )
        self._holdings.hold("core", self._core.close)
        self._places = ParameterPlaces(self._model, self._found)

    def _all_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [pair for layer in self._found.layers for pair in layer] + self._found.outer
