"""How much is lost by training the layers that somebody chose, instead of the best of those that were tried in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...errors import LayerSelectError
from ...layers.ranks import without_adapter
from ...placement import Placement
from ...rules import make_rule
from ...rules.base import Rule, always_selected
from ...utils.markdown import table
from .cells import Cells
from .comparison import Comparison
from .methods import Variant
from .rows import Row, measured_rows
from .verdicts import differences


@dataclass(frozen=True)
class Behind:
    """How far a row is behind the best of several rows, itself among them; never below 0.

    It is the largest difference of any row from this one. Each end is the largest of the ends of these differences. As
    their intervals hold together with 95 %, this one holds with 95 % (Hsu, Annals of Statistics 1981).

    Attributes:
        mean: by the qualities that were measured. It is on the large side, since some row was lucky.
        low, high: the interval.
        best: the name of the row that was measured as the best.
        seeds: how many runs of each fold were paired at least. A single one says nothing of how much runs differ, and
            the interval is then over documents alone.
    """

    mean: float
    low: float
    high: float
    best: str
    seeds: int


@dataclass(frozen=True)
class Choice:
    """Layers that somebody chose, and the row of the comparison in which they were trained.

    Attributes:
        name: as it was given: the name of a row, or the place of a placement.
        chosen_by: who chose, in words; empty for a row.
        doubt: why who chose was unsure; empty where nobody was.
        layers: their numbers; ``None`` where the numbers are not known.
        row: the row that has trained these layers; ``None`` where none has.
        behind: how far it is behind the best row; ``None`` without a row, or where no other row can be paired with it.
    """

    name: str
    chosen_by: str
    doubt: str
    layers: tuple[int, ...] | None
    row: Row | None
    behind: Behind | None


def choices_of(comparison: Comparison, names: Sequence[str]) -> list[Choice]:
    """What was chosen, beside the best of the comparison's rows that train the same layers in every step.

    Args:
        names: of rows (``top-half``, ``all/lora``), or files or folders of placements.

    Raises:
        LayerSelectError: a name is neither, or placements are of models with different layers.
    """
    placements = {name: Placement.load(name) for name in names if _row_named(comparison, name) is None}
    # One with adapters has the same layers as one without.
    layers = {tuple(map(without_adapter, each.names)): name for name, each in placements.items()}
    if len(layers) > 1:
        one, other = list(layers.values())[:2]
        raise LayerSelectError(f"--choices: {one!r} and {other!r} are placements of models with different layers")
    known = _Known(comparison, list(next(iter(layers), ())))
    return [known.choice(name, placements.get(name)) for name in names]


def _row_named(comparison: Comparison, name: str) -> Variant | None:
    """The row of a name, of which the adapter may be left out where one row alone has it."""
    found = [each for each in comparison.config.variants if name in (each.name, each.short)]
    return found[0] if len(found) == 1 or (found and found[0].name == name) else None


class _Known:
    """The rows of a comparison that train the same layers in every step."""

    def __init__(self, comparison: Comparison, layer_names: list[str]) -> None:
        self._comparison, self._cells = comparison, Cells(comparison)
        self._behind = cache(self._behind_best)  # several may have chosen the same row
        self._rows = {row.name: row for row in measured_rows(comparison)}
        self._layers: dict[Variant, tuple[int, ...] | None] = {}
        for variant in comparison.config.variants:
            rule = _constant_rule(variant)
            if rule is not None and comparison.finished(variant):
                self._layers[variant] = _layers(rule, layer_names) if layer_names else None

    def choice(self, name: str, placement: Placement | None) -> Choice:
        variant = _row_named(self._comparison, name)
        layers = self._layers.get(variant) if variant else None
        chosen_by = doubt = ""
        if placement is not None:
            layers, chosen_by, doubt = tuple(placement.layers), placement.chosen_by, placement.doubt
            variant = next((each for each, own in self._layers.items() if own == layers), None)
        if variant is None:
            return Choice(name, chosen_by, doubt, layers, None, None)
        return Choice(name, chosen_by, doubt, layers, self._rows[variant.name], self._behind(variant))

    def _behind_best(self, variant: Variant) -> Behind | None:
        mine = self._cells.of_runs(self._comparison.finished(variant))
        pairs = {
            other.name: self._cells.paired(self._cells.of_runs(self._comparison.finished(other)), mine)
            for other in self._layers
            if other != variant
        }
        known = {name: pair for name, pair in pairs.items() if pair is not None}
        config = self._comparison.config
        found = differences(known, config.kind.counts.quality, samples=config.bootstrap)
        if not found:
            return None
        best = max(found, key=lambda name: found[name].mean)
        mean, low, high = (max(0.0, *(getattr(each, part) for each in found.values())) for part in _PARTS)
        seeds = min(each.seeds for each in found.values())
        return Behind(mean, low, high, best if mean > 0 else variant.name, seeds)


_PARTS = ("mean", "low", "high")


def _constant_rule(variant: Variant) -> Rule | None:
    """The rule of a row that does nothing but train the same layers in every step."""
    if variant.own or set(variant.method.settings) != {"rule"}:
        return None
    rule = make_rule(variant.method.settings["rule"])
    return rule if rule.constant else None


def _layers(rule: Rule, layer_names: list[str]) -> tuple[int, ...] | None:
    """The layers that the rule selects; ``None`` where it fits no such model."""
    try:
        rule.bind(layer_names)
    except LayerSelectError:
        return None
    return tuple(always_selected(rule, len(layer_names)).nonzero().flatten().tolist())


@dataclass(frozen=True)
class ChoiceTable:
    """Choices as text.

    Attributes:
        heads: the headings of the columns that hold something.
        lines: the cells of each choice.
        notes: how to read them.
    """

    heads: Sequence[str]
    lines: Sequence[Sequence[str]]
    notes: Sequence[str]

    def markdown(self) -> str:
        """The table for a page of text."""
        return table(self.heads, self.lines, self.notes)


def choice_table(choices: Sequence[Choice], comparison: Comparison) -> ChoiceTable:
    """Of each choice its layers, its row, the quality and the cost of the row, and how far it is behind the best."""
    key, heading, digits = comparison.config.kind.tested
    labels = _labels([each.name for each in choices])
    lines = []
    for each in choices:
        values = each.row.values if each.row else {}
        shown = [values[name].text(n) if name in values else "" for name, n in ((key, digits), ("step_share", 2))]
        layers = "" if each.layers is None else _spans(each.layers) or "none"
        behind = (
            each.behind
            and f"{each.behind.mean:.{digits}f} ({each.behind.low:.{digits}f} to {each.behind.high:.{digits}f})"
        )
        lines.append([labels[each.name], layers, each.row.name if each.row else "none", *shown, behind or ""])
    heads = ["choice", "layers", "row", heading, "of a whole step", "behind the best"]
    notes = [
        "Behind the best: the best of the rows that train the same layers in every step is so much better. The "
        "intervals hold with 95 %."
    ]
    if any(each.behind is not None and each.behind.seeds < 2 for each in choices):
        notes.append("One seed says nothing of how much runs differ: these intervals are over documents alone.")
    if any(each.row is None for each in choices):
        notes.append("Row none: no row has trained these layers; 'compare --add' adds one.")
    notes += [
        f"{labels[each.name]} was chosen by {each.chosen_by}" + (f"; unsure: {each.doubt}" if each.doubt else "")
        for each in choices
        if each.chosen_by
    ]
    used = [number for number, cells in enumerate(zip(*lines, strict=True)) if any(cells)]
    return ChoiceTable([heads[number] for number in used], [[cells[n] for n in used] for cells in lines], notes)


def _labels(names: Sequence[str]) -> dict[str, str]:
    """Short names: of a placement's place its last part that tells it apart, if one does."""
    short = {name: Path(name.removesuffix("/placement.json")).name.removesuffix(".json") for name in names}
    distinct = len(set(short.values())) == len(short)
    return {name: short[name] if distinct and short[name] and "/" in name else name for name in names}


def _spans(numbers: Sequence[int]) -> str:
    """``0-2, 5`` for 0, 1, 2 and 5."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    return ", ".join("-".join(map(str, each)) for each in found)
