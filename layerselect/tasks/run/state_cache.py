"""Cached hidden states in a run: their store, what is said of their size, the passes after the training, the facts."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...integrations.transformers import SelectorCallback
from ...layers.requires_grad import Freezer
from ...selector.selector import FastSelector
from ...state_cache import StateCache, StateStore
from .cache_keys import CacheReader
from .cache_size import size_record
from .processes import ALONE, Processes
from .settings import TrainingSettings
from .tried_selector import check_above

logger = logging.getLogger(__name__)


class RunCache(TrainerCallback):
    """The hidden states that a run keeps, from its first step to its last evaluation. Of a run without a state cache
    nothing is kept.

    It is a callback of the Trainer, too: as soon as it is known what a token takes, it tells ``on_event`` of
    ``("state_cache", record)`` (see :func:`size_record`).

    Args:
        settings: of the run.
        lengths: the numbers of tokens of all examples that will be kept.
        on_event: see :class:`~layerselect.tasks.run.log.RunLog`.
        processes: of the run. All of them read what one has computed.
        shared: a folder that all of them see, for what is kept for this run only. A single process needs none.

    Attributes:
        store: for the selector; ``None`` without a state cache. It touches no disk before the first example is kept.
            Leaving the context closes it.
        selector: the callback that holds the selector; to be set before training.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        lengths: Sequence[int],
        on_event: Callable[[str, dict[str, Any]], None] | None = None,
        *,
        processes: Processes = ALONE,
        shared: Path | None = None,
    ) -> None:
        self._processes = processes
        self._passing = shared if processes.count > 1 and settings.cache_folder() is None else None
        self.store = open_store(settings, self._passing)
        self.selector: SelectorCallback | None = None
        self._lengths = lengths
        self._on_event = on_event or (lambda kind, record: None)
        self._after: StateCache | None = None
        self._said = self._checked = False
        self._later = (0, 0)  # filled and read after the training

    def __enter__(self) -> RunCache:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        if self.store is None:
            return
        self.store.close()
        if self._passing is not None and exc_info[0] is None:
            self._processes.meet()
            if self._processes.is_first:
                shutil.rmtree(self._passing, ignore_errors=True)

    @property
    def layers_below(self) -> int:
        """How many layers never train."""
        selector = self.selector.selector if self.selector else None
        return (selector.cut if selector else None) or 0

    @property
    def current(self) -> StateCache | None:
        """The cache that passes of the model read now."""
        selector = self.selector.selector if self.selector else None
        found = self._after or (selector.state_cache if selector else None)
        return None if found is None or found.closed else found

    @property
    def reader(self) -> CacheReader | None:
        """For the Trainer; ``None`` without a cache."""
        return None if self.store is None else CacheReader(lambda: self.current)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        selector = self.selector.selector if self.selector else None
        if selector is not None and selector.cut is not None and not self._checked:
            self._checked = True
            check_above(selector)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        selector = self.selector.selector if self.selector else None
        if (
            self._said
            or selector is None
            or selector.state_cache is None
            or selector.state_cache.bytes_per_token is None
        ):
            return
        self._said = True
        record = size_record(selector.state_cache, selector.num_layers, self._lengths)
        self._on_event("state_cache", record)
        if record["warning"]:
            logger.warning("%s", record["warning"])

    @contextmanager
    def reading(self, model: nn.Module, selector: FastSelector) -> Iterator[None]:
        """In the block, passes of the trained model read what the training has kept.

        Args:
            selector: that of the training, closed.
        """
        if selector.state_cache is None:
            yield
            return
        blocks = [model.get_submodule(name) for name in selector.layer_names]
        # A closed selector has let all layers take gradients again.
        freezer = Freezer([[p for p in block.parameters() if p.requires_grad] for block in blocks[: selector.cut]])
        freezer.apply([False] * selector.state_cache.cut)
        try:
            held = [p for block in blocks[: selector.cut] for p in block.parameters()]
            with StateCache(model, selector.state_cache.cut, self.store, layers=blocks, held=held) as state_cache:
                self._after = state_cache
                yield
            self._later = (self._later[0] + state_cache.filled, self._later[1] + state_cache.read)
        finally:
            freezer.restore()

    def facts(self) -> dict[str, Any]:
        """What a run's facts say of it; nothing without a state cache.

        ``cut`` is the number of layers below the cut. ``states_cached`` says whether hidden states were kept:
        ``--state-cache auto`` may find that computing is faster, and below a rule's cut there may be no layer.
        ``states_computed`` and ``states_read`` count examples in all passes of all processes, ``states_memory_mb``
        is held in memory at the end, and ``states_written_mb`` was written by them: what earlier ones wrote is not in
        it. All processes must ask.
        """
        selector = self.selector.selector if self.selector else None
        if self.store is None or selector is None:
            return {}
        state_cache = selector.state_cache
        facts: dict[str, Any] = {"cut": selector.cut, "states_cached": state_cache is not None}
        if state_cache is not None:
            own = (
                state_cache.filled + self._later[0],
                state_cache.read + self._later[1],
                self.store.bytes_in_memory,
                sum(shard.bytes_on_disk for shard in self.store.shards),
            )
            computed, read, held, written = map(sum, zip(*self._processes.gather(own), strict=True))
            facts |= {
                "states_computed": computed,
                "states_read": read,
                "cache_bytes_per_token": state_cache.bytes_per_token,
                "state_cache_precision": self.store.precision,
                "states_memory_mb": round(held / 1e6, 3),
                "states_written_mb": round(written / 1e6, 3),
            }
        return facts


def open_store(settings: TrainingSettings, passing: Path | None = None) -> StateStore | None:
    """The store that the settings ask for; ``None`` where nothing is kept.

    Args:
        passing: where it is if it is for this run only and other processes are to find it.
    """
    if settings.state_cache == "none":
        return None
    return StateStore(
        settings.cache_folder() or passing, memory=settings.state_cache_memory, precision=settings.state_cache_precision
    )
