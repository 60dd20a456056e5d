"""What a selector does about a state cache: chooses the cut, keeps the layers below from training, keeps their hidden
states.
"""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from ..errors import LayerSelectError
from ..layers.view import ModelView
from ..modes.freeze import LayerFreezer
from ..rules import Rule
from .cache import StateCache
from .cut import Cut
from .store import StateStore
from .worth_caching import worth_caching

logger = logging.getLogger(__name__)

STATE_CACHES = ("none", "cached", "auto")
#: The name of its state in files, which keep the word of earlier versions.
_SAVED = "trunk"


class CacheSelection:
    """A selector's part of a state cache.

    Args:
        state_cache: ``none``, ``cached`` or ``auto``.
        chosen_by, view, selecting, backend, seed: see :class:`~layerselect.state_cache.cut.Cut`.
        store: of the hidden states; ``None``: one in memory.
        mode: the selector's.

    Raises:
        LayerSelectError: a mode in which layers below a cut would go on taking gradients, or a cut without meaning.
    """

    def __init__(
        self,
        state_cache: str,
        chosen_by: int | str | Rule,
        store: StateStore | None,
        view: ModelView,
        selecting: Rule,
        *,
        mode: str,
        backend: str,
        seed: int,
    ) -> None:
        if state_cache not in STATE_CACHES:
            raise LayerSelectError(f"state_cache={state_cache!r} is none of {', '.join(map(repr, STATE_CACHES))}")
        self._view, self._store = view, store
        self._cut: Cut | None = None
        self._may_decline = state_cache == "auto"
        self._declined = False
        self.state_cache: StateCache | None = None
        if state_cache == "none":
            return
        if mode != "freeze":
            raise LayerSelectError(
                f"state_cache={state_cache!r} needs mode='freeze', in which the layers below the cut take no "
                f"gradients; here the mode is {mode!r}"
            )
        self._cut = Cut(chosen_by, view, selecting, backend=backend, seed=seed)

    @property
    def watched(self) -> int:
        """In how many first steps the layers are measured and not updated."""
        return 0 if self._cut is None else self._cut.watched

    @property
    def depth(self) -> int | None:
        """How many layers are below the cut; ``None`` where there is none, or none yet."""
        return None if self._cut is None else self._cut.depth

    @property
    def first_layer(self) -> int:
        """The lowest layer that may train."""
        return self.depth or 0

    @property
    def watching(self) -> bool:
        """Whether the cut is still to be chosen."""
        return self._cut is not None and self._cut.depth is None

    def observe(self, scores: Tensor, status: Tensor, freezer: LayerFreezer) -> None:
        """Takes note of a step; while the cut is to be chosen, no layer is updated in it."""
        if self.watching:
            assert self._cut is not None
            self._cut.observe(scores, status)
            freezer.drop_gradients([False] * len(freezer.active))
        self.activate(freezer)

    def activate(self, freezer: LayerFreezer) -> None:
        """Begins to keep hidden states, if the cut is known and layers may be frozen. From then on no layer below the
        cut takes gradients, also in the pass that shows what engine runs the model.
        """
        if not self.first_layer or self.state_cache is not None or self._declined:
            return
        freezer.floor = self.first_layer
        freezer.apply(freezer.planned)
        if freezer.held:
            return
        if self._may_decline and not worth_caching(self._view.modules[: self.first_layer]):
            self._declined = True  # measured once, not in every step
            return
        self.state_cache = StateCache(
            self._view.model,
            self.first_layer,
            self._store,
            layers=self._view.modules,
            held=[p for layer in self._view.parameters[: self.first_layer] for _, p in layer],
        )
        logger.info("the cut is below layer %d of %d", self.first_layer, len(self._view.modules))

    def close(self) -> None:
        """Gives the model its layers back."""
        if self.state_cache is not None:
            self.state_cache.close()

    def state_dict(self) -> dict[str, Any]:
        return {} if self._cut is None else {_SAVED: self._cut.state_dict()}

    def check_state(self, state: dict[str, Any]) -> None:
        """Whether :meth:`load_state_dict` can take it.

        Raises:
            Mismatch: it is no such state.
            LayerSelectError: the state is of a selector with a state cache, and this one has none, or the other way
                round.
        """
        if (_SAVED in state) != (self._cut is not None):
            raise LayerSelectError(
                "the selector state was saved "
                + ("with" if _SAVED in state else "without")
                + " a state cache, and this selector has "
                + ("none" if _SAVED in state else "one")
            )
        if self._cut is not None:
            self._cut.check_state(state[_SAVED], _SAVED)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._cut is not None:
            self._cut.load_state_dict(state[_SAVED])
