"""A plan in words: the table's columns and cells, its heading, and what is taken for granted."""

from __future__ import annotations

from dataclasses import dataclass

from ...report.numbers import long_time, seconds
from .plan import Plan
from .steps import PlanRow


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        short: the heading where there is little room; :func:`notes` explains it.
        of_card: it is empty where no card is named.
        of_speed: it is there where a speed is named, or where none is; ``None``: always.
        text: it holds words, not numbers.
    """

    key: str
    heading: str
    short: str
    of_card: bool = False
    of_speed: bool | None = None
    text: bool = False


COLUMNS = (
    Column("way", "trains", "trains", text=True),
    Column("held", "weights in", "", text=True),
    Column("weights", "weights", "weights"),
    Column("state", "gradients and optimizer", "state"),
    Column("saved", "activations", "saved"),
    Column("peak", "peak", "peak"),
    Column("usual", "peak of most steps", "usual"),
    Column("step", "arithmetic of a step", "step", of_speed=False),
    Column("time", "time", "time", of_speed=True),
    Column("fits", "fits", "fits", of_card=True),
    Column("batch", "largest batch", "batch", of_card=True),
)
#: Names of the units, what is one, and the digits behind the point.
_UNITS = (("GB", 10**9, 2), ("MB", 10**6, 0))
#: From so many seconds on a time is said in minutes or more.
_LONG = 120


def columns_of(plan: Plan) -> list[Column]:
    """The columns that the plan fills."""
    no_card, timed = plan.settings.gpu is None, plan.settings.speed is not None
    return [each for each in COLUMNS if not (each.of_card and no_card) and each.of_speed in (None, timed)]


def held(row: PlanRow) -> str:
    """How the weights of a row are held, and whether layers are computed again."""
    return row.weights_in + (", checkpointing" if row.checkpointing else "")


def unit_of(plan: Plan) -> str:
    """The unit of all sizes in the table."""
    most = max(row.peak for row in plan.rows)
    return next((name for name, size, _ in _UNITS if most >= size), _UNITS[-1][0])


def cells(row: PlanRow, unit: str, steps: int | None = None) -> dict[str, str]:
    """The texts of a row, by the keys of :data:`COLUMNS`; sizes in ``unit``, which they do not name.

    Args:
        steps: of the training whose time is said; ``None``: of one step.
    """
    sizes = {
        "weights": row.weights,
        "state": row.gradients + row.optimizer,
        "saved": row.activations,
        "peak": row.peak,
        "usual": row.usual_peak,
    }
    one, digits = next((one, digits) for name, one, digits in _UNITS if name == unit)
    return {
        "way": row.way,
        "held": held(row),
        **{key: f"{size / one:,.{digits}f}" for key, size in sizes.items()},
        "step": f"{row.arithmetic:.0%}",
        "time": "" if row.seconds is None else _time(row.seconds * (steps or 1)),
        "fits": "" if row.fits is None else "yes" if row.fits else "no",
        "batch": "" if row.largest_batch is None else f"{row.largest_batch:,}" if row.largest_batch else "none",
    }


def _time(value: float) -> str:
    return long_time(value) if value >= _LONG else seconds(value)


def headline(plan: Plan) -> str:
    """What the table is of."""
    settings = plan.settings
    place = f"a card of {settings.gpu}" if settings.gpu else f"a {settings.holding().device.upper()}"
    return (
        f"{settings.model}: {plan.parameters:,} weights in {plan.layers} layers; {settings.task}, batches of "
        f"{settings.batch_size} x {plan.tokens} tokens, {settings.adapter}, {settings.optimizer}, on {place}"
    )


def notes(plan: Plan) -> list[str]:
    """How to read the table, in sentences."""
    found = [
        "state: gradients and optimizer; saved: activations kept for the backward pass; peak: the most that is held at "
        "one time; all of the step that trains the most layers.",
        "usual: the peak of most steps. ir and cost-aware train all layers now and then, to measure them; in the other "
        "steps every second layer is taken to be selected.",
    ]
    if plan.settings.speed is None:
        found.append(
            "step: multiply-adds, beside those of all without checkpointing; of cached from the second epoch on."
        )
    else:
        of = "a step" if plan.settings.steps is None else f"{plan.settings.steps:,} steps"
        found.append(
            f"time: of {of}, where the card does {plan.settings.speed:g} x 10^12 operations a second; of cached from "
            "the second epoch on. 8 or 4 bits take longer; evaluations and loading are not in it."
        )
    found += [f"Left out: {why}." for why in plan.left_out]
    if plan.settings.gpu is not None:
        found.append("fits: the peak, 3% more, and 0.7 GB for CUDA itself; batch: the largest that fits.")
    if plan.settings.holding().device == "cuda":
        found.append("Counted from shapes, as on a GPU; not measured on one.")
    return found
