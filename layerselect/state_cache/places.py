"""Finds where the hidden states of a pass are kept, given all that they depend on besides the example."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import LayerSelectError
from . import reasons
from .below import Below, Setting, containers_of
from .cached import CachedStates, numerics_on
from .keys import BatchKeys
from .padding import check_shapes
from .passes import survey
from .setting_shards import OfCall, SettingShards
from .skipping import Skipping
from .stacks import CutStack
from .store import StateStore
from .weights import WatchedWeights

logger = logging.getLogger(__name__)

#: Settings that are remembered at a time: a policy and its references, in training and in evaluation.
_MOST = 8
#: So many new settings in a row are looked at; then hidden states are computed until two passes are set alike.
_PATIENCE = 4

Pass = Callable[[], Any]


class Places:
    """The shards of a state cache, one for each setting of the model.

    Args:
        model: the model, without what an engine puts around it.
        around: the module that the training calls.
        stacks: where the cut divides them.
        store: of the shards.
        skipping: of the blocks below.
        facts: what is said about each shard.
        held: parameters below the cut that somebody keeps from training; ``None``: nobody does, so none may train.
    """

    def __init__(
        self,
        model: nn.Module,
        around: nn.Module,
        stacks: Sequence[CutStack],
        store: StateStore,
        skipping: Skipping,
        facts: Mapping[str, Any],
        held: Collection[nn.Parameter] | None,
    ) -> None:
        self._model, self._stacks, self._skipping = model, stacks, skipping
        self._shards = SettingShards(model, stacks, store, skipping, facts)
        self._blocks = [block for stack in stacks for block in stack.below]
        self._above = [around, *containers_of(model, self._blocks)]
        self._held = None if held is None else frozenset(map(id, held))
        self._below: Below | None = None
        self._weights: WatchedWeights | None = None
        self._moods: reasons.Moods | None = None
        self._outside: list[nn.Module] = []
        self._kept: list[tuple[OfCall, Setting, CachedStates]] = []
        self._warned: set[str] = set()
        self._latest: tuple[OfCall, Setting] | None = None
        self._new_in_a_row = 0

    @property
    def bytes_per_token(self) -> int | None:
        """What the store keeps of a token; ``None`` before the first pass."""
        return self._shards.bytes_per_token

    @property
    def settled(self) -> bool:
        """Whether the latest pass found a setting that was known."""
        return bool(self._kept) and self._new_in_a_row == 0

    @property
    def reasons(self) -> list[str]:
        """Why passes had to compute: the causes that the log has named, in alphabetical order."""
        return sorted(self._warned)

    def closed_to(self, inputs: Mapping[str, Any]) -> bool:
        """Whether a pass with these inputs has to compute. The log names each cause once."""
        replaced = self._skipping.replaced()
        reason = (
            reasons.of_inputs(inputs)
            or reasons.of_prompts(self._model)
            or (
                None
                if replaced is None
                else f"the forward of {self._name_of(replaced)} was replaced after the cut was made"
            )
            or self._hooked()
            or (None if self._moods is None else self._moods.reason())
        )
        return self._is_closed(reason)

    def find(self, inputs: Mapping[str, Any], call: Pass, batch: BatchKeys, *, trains: bool) -> CachedStates | None:
        """Where the states of this pass are kept; ``None`` if it has to compute.

        Args:
            inputs: of the pass.
            call: calls the model with them.
            batch: their keys.
            trains: it has gradients.

        Raises:
            LayerSelectError: something below the cut trains in this pass, or the states of this model cannot be kept.
        """
        below, setting, changes = self._look_around()
        if below is not None and self._is_closed(self._training(trains)):
            return None
        of_call = (numerics_on(next(self._model.parameters()).device), _simple(inputs))
        if below is not None and setting is not None:
            for known, kept_setting, kept in self._kept:
                if known == of_call and kept_setting.is_same(setting):
                    self._new_in_a_row, self._latest = 0, (of_call, kept_setting)
                    return kept
        if self._is_unsteady(below, setting, of_call, changes):
            return None
        return self._survey(of_call, call, batch, trains)

    def gradients_are_asked(self) -> bool:
        """Whether the layers above are to be given hidden states that require gradients. A selector sees to that
        itself.
        """
        if self._held is not None or self._below is None or not self._below.has_hooks():
            return False
        return reasons.ask_gradients(module for _, module in self._below.parts)

    # ------------------------------------------------------------------ what has changed

    def _look_around(self) -> tuple[Below | None, Setting | None, str | None]:
        """What is below, how it is set, and what has changed in it for good."""
        below, weights = self._below, self._weights
        if below is None or weights is None:
            return None, None, None
        setting = below.setting() if below.is_whole() else None
        if setting is None:
            self._forget()
            return None, None, "the modules below the cut are exchanged"
        if weights.changed():
            self._kept.clear()
            weights.take_note()
            return below, setting, "what weights below the cut hold changes"
        return below, setting, None

    def _is_unsteady(self, below: Below | None, setting: Setting | None, of_call: OfCall, changes: str | None) -> bool:
        """Whether every pass finds another setting than the one before, so that looking at each would be in vain."""
        before, now = self._latest, None if setting is None else (of_call, setting.kept())
        self._latest = now
        self._new_in_a_row += 1
        if self._new_in_a_row <= _PATIENCE:
            return False
        steady = before is not None and now is not None and before[0] == now[0] and now[1].is_same(before[1])
        if steady and changes is None:
            self._new_in_a_row = 0
            return False
        if below is None:  # to see by whether the next pass finds what this one does
            self._watch(self._outside)
        elif changes is None and before is not None and setting is not None:
            same_call = before[0] == of_call
            changes = (
                f"{below.difference(before[1], setting)} changes"
                if same_call
                else "what the model is called with changes"
            )
        return self._is_closed(f"{changes or 'the setting of the model changes'} in every pass")

    def _training(self, trains: bool) -> str | None:
        """Why a pass without gradients is not kept: an adapter below was switched on.

        Raises:
            LayerSelectError: it takes gradients in this pass, or something else trains that stands below.
        """
        assert self._weights is not None
        found = self._weights.training(held=self._held or frozenset(), but_adapters=self._held is not None)
        if found is None:
            return None
        if trains or not self._weights.is_switched(found):
            self._weights.refuse(found)
        return f"{self._weights.name_of(found)} trains and stands below the cut"

    def _is_closed(self, reason: str | None) -> bool:
        if reason is None:
            return False
        if reason not in self._warned:
            self._warned.add(reason)
            logger.warning("hidden states are computed as without a store where %s", reason)
        return True

    def _forget(self) -> None:
        self._below = self._weights = self._moods = None
        self._kept.clear()

    # ------------------------------------------------------------------ a new setting

    def _survey(self, of_call: OfCall, call: Pass, batch: BatchKeys, trains: bool) -> CachedStates | None:
        """Runs the model whole, once, to learn how it is cut."""
        try:
            seen = survey(
                self._model,
                call,
                [s.below[-1] if s.below else None for s in self._stacks],
                [s.above for s in self._stacks],
                self._skipping,
            )
        except LayerSelectError:
            # A hook of somebody else may be the cause, on whatever module it is.
            if self._is_closed(reasons.of_hooks(self._model.modules(), (), self._name_of)):
                return None
            raise
        states = self._own(seen.states)
        check_shapes(states, len(batch.keys), self._own(batch.masks))
        self._watch(seen.outside)
        assert self._below is not None and self._weights is not None and self._moods is not None
        reason = (
            reasons.of_hooks(self._below.modules, self._above, self._name_of)
            or self._moods.reason()
            or self._training(trains)
        )
        setting = self._below.setting()
        if self._is_closed(reason) or setting is None:
            return None
        shard = self._shards.open(self._below, of_call, states, in_use=bool(self._kept))
        kept = CachedStates(shard, [s.dtype for s in states], [s.device for s in states])
        self._kept.append((of_call, setting.kept(), kept))
        del self._kept[:-_MOST]
        return kept

    def _watch(self, outside: Sequence[nn.Module]) -> None:
        """Watches what runs before the cut: what ran there in this setting, and in others."""
        known = {id(module) for module in self._outside}
        new = [module for module in outside if id(module) not in known]
        if self._below is None or new or not self._below.is_whole() or self._below.setting() is None:
            self._forget()
            # After an exchange of modules, those of the setting that was looked at; else those of all settings.
            self._outside = [*self._outside, *new] if self._is_there(self._outside) else list(outside)
            self._below = Below(self._model, self._blocks, self._outside)
            self._weights = WatchedWeights(self._below)
            self._moods = reasons.Moods(self._below)
        elif self._weights is not None and self._weights.changed():  # by the passes that looked
            self._kept.clear()
            self._weights.take_note()

    def _is_there(self, modules: Sequence[nn.Module]) -> bool:
        there = {id(module) for module in self._model.modules()}
        return all(id(module) in there for module in modules)

    def _own(self, values: Sequence[Any]) -> list[Any]:
        return [value for value, stack in zip(values, self._stacks, strict=True) if stack.below]

    def _hooked(self) -> str | None:
        if self._below is None:
            return reasons.of_hooks((m for block in self._blocks for m in block.modules()), self._above, self._name_of)
        parts = (module for _, module in self._below.parts) if self._below.has_hooks() else ()
        return reasons.of_hooks(parts, self._above, self._name_of)

    def _name_of(self, module: nn.Module) -> str:
        return next((name for name, other in self._model.named_modules() if other is module), "")


def _simple(inputs: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The arguments of a call that are no tensors, and so are the same for all examples."""
    return tuple(
        sorted(
            (name, str(value))
            for name, value in inputs.items()
            if isinstance(value, (bool, int, float, str, torch.dtype)) and name not in reasons.HARMLESS
        )
    )
