"""What each way of training takes of a card: weights, gradients, optimizer, activations, and the peak."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...errors import LayerSelectError
from ...models.recomputing import CannotRecompute
from ...models.weight_bytes import CannotQuantize
from .batch import tokens_of
from .settings import ALL, PlanSettings
from .steps import Models, PlanRow
from .ways import WAYS, Way


@dataclass(frozen=True)
class Plan:
    """The table.

    Attributes:
        settings: what was asked.
        parameters: of the model without adapters.
        layers: how many it has.
        tokens: of an example, with what the command puts around its text.
        dtype: of the weights that are not quantized.
        left_out: why rows are missing, in sentences: what the architecture cannot do.
        rows: in the order of :data:`~layerselect.tasks.plan.ways.WAYS`, by how the weights are held.
    """

    settings: PlanSettings
    parameters: int
    layers: int
    tokens: int
    dtype: str
    rows: tuple[PlanRow, ...]
    left_out: tuple[str, ...] = ()

    def row(self, way: str, **facts: object) -> PlanRow:
        """The first row of a way with such attributes.

        Raises:
            LayerSelectError: there is none.
        """
        for row in self.rows:
            if row.way == way and all(getattr(row, name) == value for name, value in facts.items()):
                return row
        raise LayerSelectError(f"the plan has no row {way!r} with {facts}")


def make_plan(settings: PlanSettings, on_row: Callable[[PlanRow], None] | None = None) -> Plan:
    """Plans every way of training.

    The model is made of its configuration, without weights, and each kind of step is run once on tensors without
    contents. What is taken for granted: a split by variance selects every second layer in most steps; a padded batch,
    all of whose examples have the full length.

    Args:
        on_row: told of each row as it is found.

    Raises:
        LayerSelectError: there is no such configuration, no adapter fits, the optimizer's state is not known, or a step
            of the model needs numbers that only weights would give.
    """
    models = Models(settings)
    rows: list[PlanRow] = []
    left_out: dict[str, None] = {}
    for quantize in ("none", "8bit", "4bit") if settings.quantize == ALL else (settings.quantize,):
        for checkpointing in _checkpointing(settings):
            try:
                models.check(quantize, checkpointing=checkpointing)
            except (CannotQuantize, CannotRecompute) as error:
                of = "quantize" if isinstance(error, CannotQuantize) else "gradient_checkpointing"
                if getattr(settings, of) != ALL:
                    raise
                left_out[str(error)] = None
                continue
            for way in WAYS:
                if (row := models.row(way, quantize, checkpointing=checkpointing)) is not None:
                    rows.append(row)
                    if on_row is not None:
                        on_row(row)
    plain = models.prepared(whole=True)
    return Plan(
        settings,
        sum(parameter.numel() for parameter in plain.model.parameters()),
        len(plain.found.layers),
        sum(tokens_of(settings)),
        settings.holding().dtype,
        tuple(rows),
        tuple(left_out),
    )


def plan_way(settings: PlanSettings, way: Way) -> PlanRow:
    """Plans one way of training, held as the settings say.

    Raises:
        LayerSelectError: as :func:`make_plan`; or the settings leave open how it is held.
    """
    quantize, checkpointing = settings.quantize, settings.gradient_checkpointing
    row = None
    if ALL not in (quantize, checkpointing):
        row = Models(settings).row(way, quantize, checkpointing=checkpointing != "none")
    if row is None:
        raise LayerSelectError(f"there is no one way to plan with --quantize {quantize} and {checkpointing}")
    return row


def _checkpointing(settings: PlanSettings) -> tuple[bool, ...]:
    chosen = settings.gradient_checkpointing
    return (False, True) if chosen == ALL else (chosen != "none",)
