"""Kept hidden states in a run: their store, what is said of their size, the passes after the training, the facts."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...errors import LayerSelectError
from ...integrations.transformers import SelectorCallback
from ...layers.find import split_parameters
from ...layers.requires_grad import Freezer
from ...rules import MEASURED, Fixed, LayerCardRule
from ...rules.suppression import evaluating
from ...selector.selector import FastSelector
from ...state_cache import Trunk, TrunkStore
from ...utils.sizes import show_bytes
from .probe import tried_on
from .settings import TrainingSettings
from .training import selector_options

logger = logging.getLogger(__name__)


class RunTrunk(TrainerCallback):
    """The hidden states that a run keeps, from its first step to its last evaluation. Of a run without a trunk nothing is kept.

    It is a callback of the Trainer, too: as soon as it is known what a token takes, it tells ``on_event`` of
    ``("trunk", record)`` (see :func:`size_record`).

    Args:
        settings: of the run.
        lengths: the numbers of tokens of all examples that will be kept.
        on_event: see :class:`~layerselect.tasks.run.log.RunLog`.

    Attributes:
        store: for the selector; ``None`` without a trunk. It touches no disk before the first example is kept. Leaving the
            context closes it.
        selector: the callback that holds the selector; to be set before training.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        lengths: Sequence[int],
        on_event: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> None:
        self.store = open_store(settings)
        self.selector: SelectorCallback | None = None
        self._lengths = lengths
        self._on_event = on_event or (lambda kind, record: None)
        self._said = self._checked = False
        self._later = (0, 0)  # filled and read after the training

    def __enter__(self) -> RunTrunk:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        if self.store is not None:
            self.store.close()

    @property
    def layers_below(self) -> int:
        """How many layers never train."""
        selector = self.selector.selector if self.selector else None
        return (selector.cut if selector else None) or 0

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
        if self._said or selector is None or selector.trunk is None or selector.trunk.bytes_per_token is None:
            return
        self._said = True
        record = size_record(selector.trunk, selector.num_layers, self._lengths)
        self._on_event("trunk", record)
        if record["warning"]:
            logger.warning("%s", record["warning"])

    @contextmanager
    def reading(self, model: nn.Module, selector: FastSelector) -> Iterator[None]:
        """In the block, passes of the trained model read what the training has kept.

        Args:
            selector: that of the training, closed.
        """
        if selector.trunk is None:
            yield
            return
        blocks = [model.get_submodule(name) for name in selector.layer_names]
        # A closed selector has let all layers take gradients again.
        freezer = Freezer([[p for p in block.parameters() if p.requires_grad] for block in blocks[: selector.cut]])
        freezer.apply([False] * selector.trunk.cut)
        try:
            held = [p for block in blocks[: selector.cut] for p in block.parameters()]
            with Trunk(model, selector.trunk.cut, self.store, layers=blocks, held=held) as trunk:
                yield
            self._later = (self._later[0] + trunk.filled, self._later[1] + trunk.read)
        finally:
            freezer.restore()

    def facts(self) -> dict[str, Any]:
        """What a run's facts say of it; nothing without a trunk.

        ``cut`` is the number of layers below the cut. ``trunk_kept`` says whether hidden states were kept: ``--trunk auto`` may find
        that computing is faster, and below a rule's cut there may be no layer. ``trunk_computed`` and ``trunk_read`` count
        examples in all passes of this process, ``trunk_memory_mb`` is held in memory at the end, and ``trunk_written_mb`` was
        written by this process: what earlier ones wrote is not in it.
        """
        selector = self.selector.selector if self.selector else None
        if self.store is None or selector is None:
            return {}
        trunk = selector.trunk
        facts: dict[str, Any] = {"cut": selector.cut, "trunk_kept": trunk is not None}
        if trunk is not None:
            facts |= {
                "trunk_computed": trunk.filled + self._later[0],
                "trunk_read": trunk.read + self._later[1],
                "trunk_bytes_per_token": trunk.bytes_per_token,
                "trunk_precision": self.store.precision,
                "trunk_memory_mb": round(self.store.bytes_in_memory / 1e6, 3),
                "trunk_written_mb": round(sum(shelf.bytes_on_disk for shelf in self.store.shelves) / 1e6, 3),
            }
        return facts


def open_store(settings: TrainingSettings) -> TrunkStore | None:
    """The store that the settings ask for; ``None`` where nothing is kept."""
    if settings.trunk == "none":
        return None
    return TrunkStore(settings.trunk_folder(), memory=settings.trunk_memory, precision=settings.trunk_precision)


def size_record(trunk: Trunk, layers: int, lengths: Sequence[int]) -> dict[str, Any]:
    """What the kept hidden states of examples of these lengths will take.

    Returns:
        ``cut`` and ``layers``; ``bytes_per_token``, ``tokens``, ``examples``, ``bytes`` of all; ``stored``, how many entries are
        there already, those of the batches seen so far among them; ``folder`` and ``memory`` of the store; ``warning``, a sentence
        if the disk has less room than they need, or ``None``.
    """
    store, tokens = trunk.store, sum(lengths)
    assert trunk.bytes_per_token is not None
    size, stored = trunk.bytes_per_token * tokens, sum(len(shelf) for shelf in store.shelves)
    on_disk = size if store.folder is not None else max(0, size - store.memory)
    # Examples that are alike share an entry, so their number alone does not tell that all are there.
    missing = 0.0 if trunk.filled == 0 else max(0, len(lengths) - stored) / len(lengths)
    return {
        "cut": trunk.cut,
        "layers": layers,
        "bytes_per_token": trunk.bytes_per_token,
        "tokens": tokens,
        "examples": len(lengths),
        "bytes": size,
        "stored": stored,
        "folder": None if store.folder is None else str(store.folder),
        "memory": store.memory,
        "warning": _no_room(int(on_disk * missing), store.folder or Path(tempfile.gettempdir())),
    }


def _no_room(needed: int, folder: Path) -> str | None:
    """A sentence if the disk of a folder has less room than is needed."""
    free = shutil.disk_usage(_existing(folder)).free
    if needed <= free:
        return None
    return (
        f"the hidden states need about {show_bytes(needed)} more in {folder}, where {show_bytes(free)} are free: what does not fit is "
        "computed again; choose another disk with --trunk-store, or half the size with --trunk-precision half"
    )


def check_above(selector: FastSelector) -> None:
    """
    Raises:
        LayerSelectError: all layers that the rule will ever select are below the cut, and nothing outside the layers trains.
    """
    cut, layers = selector.cut or 0, selector.num_layers
    has_outer = sum(p.numel() for p in selector.trainable_parameters()) > sum(selector.layer_sizes)
    if not cut or has_outer or not isinstance(selector.rule, (Fixed, LayerCardRule)):
        return
    everywhere = torch.full((layers,), MEASURED, dtype=torch.uint8)
    chosen = selector.rule.select(torch.full((layers,), float("nan")), everywhere).mask
    if not chosen[cut:].any():
        raise LayerSelectError(
            f"nothing would train: the rule selects the layers {chosen.nonzero().flatten().tolist()}, all below the cut, which is "
            f"below layer {cut}: lower --cut, or select other layers"
        )


def try_selector(model: nn.Module, settings: TrainingSettings, call: Callable[[], object]) -> None:
    """Finds out before the training begins whether the selector that the settings ask for fits the model, and whether its
    hidden states can be kept, if they are to be. Writes nothing.

    Args:
        call: runs the model on a few examples, as the training will.

    Raises:
        LayerSelectError: something does not fit.
    """
    settings.check_cut(len(split_parameters(model).names))
    with _tried_selector(model, settings) as selector:
        check_above(selector)
        if selector.trunk is not None:
            call()
    if settings.trunk != "none" and selector.cut is None:
        # The cut is chosen in the first steps; what holds of the lowest one holds of all.
        with _tried_selector(model, settings, cut=1):
            call()


@contextmanager
def _tried_selector(model: nn.Module, settings: TrainingSettings, **changes: Any) -> Iterator[FastSelector]:
    """A selector that makes no step, with a small store of its own in memory, and the model in evaluation mode."""
    options = {**selector_options(settings), **changes}
    options["rule"] = tried_on(options["rule"])
    with FastSelector(model, **options) as selector, evaluating(model):
        yield selector


def _existing(folder: Path) -> Path:
    """The folder, or the lowest one above it that is there."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())
