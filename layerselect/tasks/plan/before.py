"""What a plan says of one run: its peak before anything is loaded, and what to try when memory has run out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...errors import LayerSelectError
from ...models.blank import blank_model
from ...models.demo import SOURCE as DEMO
from ...rules import Rule, make_rule
from ...utils.options import flag_of
from ...utils.sizes import show_bytes
from ..run.memory import OutOfMemory
from ..run.settings import TrainingSettings
from ..run.task import OnEvent
from .plan import plan_way
from .settings import PlanSettings
from .steps import PlanRow, reserved
from .ways import Way, chosen_by, every_layer

logger = logging.getLogger(__name__)

#: Of smaller models nobody asks, and a step is sooner tried than planned.
_SMALL = 100_000_000
#: What takes nearly as much is no smaller choice.
_LESS = 0.95
#: Classes of a head, which take next to nothing.
_CLASSES = 5
#: What can be changed of a run so that it takes less, what changes least first.
_CHANGES: tuple[Mapping[str, Any], ...] = (
    {"gradient_checkpointing": "nonreentrant"},
    {"quantize": "8bit"},
    {"quantize": "4bit"},
    {"gradient_checkpointing": "nonreentrant", "quantize": "4bit"},
)


@dataclass(frozen=True)
class PlannedRun:
    """The peak of a run.

    Attributes:
        row: its fullest step.
        memory: of the device that it would stand on, in bytes; ``None`` on a CPU.
    """

    row: PlanRow
    memory: int | None

    @property
    def fits(self) -> bool:
        return self.memory is None or reserved(self.row.peak, on_gpu=True) <= self.memory

    def sentence(self) -> str:
        """The peak, in words."""
        row = self.row
        said = (
            f"planned peak: {show_bytes(row.peak)} (weights {show_bytes(row.weights)}, gradients and optimizer "
            f"{show_bytes(row.gradients + row.optimizer)}, activations {show_bytes(row.activations)})"
        )
        if self.memory is None:
            return said
        return f"{said}; the GPU has {show_bytes(self.memory)}{'' if self.fits else ', which may not be enough'}"


def planned_run(config: TrainingSettings) -> PlannedRun | None:
    """What a run will take, from the configuration of its model; ``None`` where nothing is planned: a model of the
    demo's size, one whose steps need weights, one that is spread over several devices.
    """
    if config.model == DEMO or config.device_map != "none" or config.shards():
        return None
    try:
        settings = PlanSettings.of(config, _CLASSES)
        if _parameters(settings) < _SMALL:
            return None
        memory = torch.cuda.get_device_properties(0).total_memory if settings.holding().device == "cuda" else None
        return PlannedRun(plan_way(settings, way_of(config)), memory)
    except LayerSelectError:
        # Whatever is wrong with the run is said by the run itself; here only the plan is left out.
        logger.debug("the run is not planned", exc_info=True)
        return None


def next_smaller(config: TrainingSettings, planned: PlannedRun | None = None) -> str | None:
    """The plan's next smaller choice, as it is typed, with its peak; ``None`` where there is none.

    Args:
        planned: of the run, where it is known.
    """
    planned = planned or planned_run(config)
    if planned is None:
        return None
    found: list[tuple[int, str]] = []
    for changes in (*_CHANGES, *_smaller_batches(config)):
        if all(getattr(config, name) == value for name, value in changes.items()):
            continue
        try:
            row = plan_way(PlanSettings.of(replace(config, **changes), _CLASSES), way_of(config))
        except LayerSelectError:  # no such choice for this run
            continue
        typed = " ".join(f"{flag_of(type(config), name)} {value}" for name, value in changes.items())
        if row.peak < _LESS * planned.row.peak:
            found.append((row.peak, typed))
    if not found:
        return None
    peak, typed = max(found)
    return f"by plan, {typed} takes {show_bytes(peak)} instead of {show_bytes(planned.row.peak)}"


@contextmanager
def planned(config: TrainingSettings, on_event: OnEvent | None) -> Iterator[None]:
    """Says what the run in the block will take, and names the next smaller choice when memory runs out in it.

    Args:
        on_event: is told; ``None`` tells nobody.
    """
    found = planned_run(config) if on_event is not None else None
    if found is not None and on_event is not None:
        on_event("planned", {"text": found.sentence(), "fits": found.fits, "peak": found.row.peak})
    try:
        yield
    except OutOfMemory as error:
        choice = next_smaller(config, found)
        if choice is None:
            raise
        raise LayerSelectError(f"{error}; {choice}") from error


def way_of(config: TrainingSettings) -> Way:
    """The way in which a run trains: the layers of a rule that is known beforehand, else any of them."""
    rule = make_rule(config.rule, seed=config.seed)
    known = rule.constant and not rule.uses_scores and type(rule).prepare is Rule.prepare
    bounded = config.budget is not None or config.state_cache != "none"
    if not known or config.mode in ("gate", "observe") or bounded:
        return Way("this run", "as its options say", every_layer)
    return Way("this run", "as its options say", chosen_by(rule))


def _smaller_batches(config: TrainingSettings) -> list[Mapping[str, Any]]:
    parts = [part for part in range(config.batch_size // 2, 0, -1) if config.batch_size % part == 0][:1]
    return [{"batch_size": part, "accumulate": config.accumulate * (config.batch_size // part)} for part in parts]


def _parameters(settings: PlanSettings) -> int:
    model = blank_model(settings.model, writes=settings.writes, classes=settings.classes).model
    return sum(parameter.numel() for parameter in model.parameters())
