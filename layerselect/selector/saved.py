"""What a selector saves, and how it goes on from there."""

from __future__ import annotations

from typing import Any

import torch

from ..core.base import Core
from ..errors import LayerSelectError
from ..modes.freeze import LayerFreezer
from ..rules import Rule
from ..state_cache.selection import CacheSelection
from ..status import EXCLUDED, NEVER_MEASURED
from ..utils.saved_schema import MOST, Fields, Mismatch, check
from ..utils.saved_tensors import Numbers
from .backward_plan import BackwardPlan
from .saved_state import STATE_VERSION, check_state, say_what_changed, settings_of

#: Tensors of the core that a saved state holds.
_SAVED = (
    "scores",
    "status",
    "nonfinite",
    "total_norm",
    "step",
    "decided",
    "mask",
    "wanted",
    "threshold",
    "frequency",
    "trained_frequency",
    "kept_share",
    "step_cost",
)
#: Those that states of earlier releases lack.
_NEWER = ("trained_frequency", "kept_share", "step_cost")


class Saved:
    """Part of :class:`~layerselect.FastSelector`: its state as a dict."""

    mode: str
    score: str
    lag: int
    layer_names: list[str]
    _core: Core
    _rule: Rule
    _plan: BackwardPlan
    _cache: CacheSelection
    _freezer: LayerFreezer
    _step: int

    def _check_open(self) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit: tensors on the host and JSON values, nested in dicts."""
        return {
            "version": STATE_VERSION,
            "layer_names": list(self.layer_names),
            "score": self.score,
            "lag": self.lag,
            # What a CUDA graph replays is counted by the device alone.
            "step": max(self._step, int(self._core.state["step"])),
            "settings": settings_of(self),
            "rule": {
                "name": self._rule.name,
                "config": self._rule.config(),
                "state": self._rule.state_dict(),
            },
            "core": {name: self._core.state[name].cpu().clone() for name in _SAVED},
            **self._plan.state_dict(),
            **self._cache.state_dict(),
            "history": self._core.history.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where :meth:`state_dict` was taken.

        Raises:
            LayerSelectError: the state is of another version, of a model with other layers, of another rule or
                another score form. Nothing is changed then.
        """
        self._check_open()
        try:
            self._check_state(state)
        except Mismatch as error:
            raise LayerSelectError(
                f"the selector state is damaged ({error}): resume from an older checkpoint"
            ) from error
        self._load_rule(state["rule"]["state"])
        say_what_changed(state, settings=settings_of(self), rule=self._rule.config())
        self._cache.load_state_dict(state)
        self._step = int(state["step"])
        for name in _SAVED:
            # States of before these were counted have none (_NEWER).
            self._core.state[name].copy_(state["core"].get(name, torch.zeros(())))
        self._plan.load_state_dict(state)
        self._core.history.load_state_dict(state["history"])
        if self.mode == "freeze":
            self._cache.activate(self._freezer)
            self._freezer.apply(state["active"])

    def _check_state(self, state: dict[str, Any]) -> None:
        check_state(state, layer_names=self.layer_names, rule=self._rule.name, score=self.score, lag=self.lag)
        layers = len(self.layer_names)
        kinds = {name: _of_core(name, layers) for name in _SAVED}
        needed = {name: kind for name, kind in kinds.items() if name not in _NEWER}
        check(Fields({"core": Fields(needed, optional=kinds)}), state)
        self._cache.check_state(state)
        self._plan.check_state(state)
        self._core.history.check_state(state["history"], "history", before=state["step"])

    def _load_rule(self, saved: dict[str, Any]) -> None:
        """Loads the state of the rule. If that fails, as it may in any way, the rule gets its old state back."""
        before = self._rule.state_dict()
        try:
            self._rule.load_state_dict(saved)
        except LayerSelectError:
            self._rule.load_state_dict(before)
            raise
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, OverflowError) as error:
            self._rule.load_state_dict(before)
            raise LayerSelectError(
                f"the state of rule {self._rule.name!r} cannot be taken ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}): resume from an older checkpoint"
            ) from error


def _of_core(name: str, layers: int) -> Numbers:
    """What a tensor of the core is saved as."""
    if name in ("decided", "mask", "wanted"):
        return Numbers("bool", (layers,))
    if name == "scores":
        return Numbers("float", (layers,), low=0.0, infinite=False)
    if name == "status":
        return Numbers("uint8", (layers,), low=EXCLUDED, high=NEVER_MEASURED)
    if name in ("nonfinite", "frequency", "trained_frequency"):
        return Numbers("int", (layers,), low=0, high=MOST)
    return Numbers("int", (), low=0, high=MOST) if name == "step" else Numbers("float", ())
