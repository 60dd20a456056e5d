"""What the card command shows: what it needs before it starts, a progress bar, the table, and two cards side by
side.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..report.numbers import plural
from ..utils.sizes import show_bytes
from .progress import StageLine

if TYPE_CHECKING:
    from ..card import CardDifference, LayerCard


class CardDisplay(StageLine):
    """Shows the events of a measurement on stderr."""

    def __init__(self) -> None:
        super().__init__()
        self._now = ""

    def __enter__(self) -> CardDisplay:
        super().__enter__()
        self.begin("loading")
        return self

    def __call__(self, kind: str, record: dict[str, Any]) -> None:
        if kind == "plan":
            sweeps = f"{record['sweeps']} sweep{'s' * (record['sweeps'] > 1)}"
            self.say(f"holds at most {show_bytes(record['peak_bytes'])} besides the model and its passes, in {sweeps}")
            return
        if kind != self._now:
            self._now = kind
            self.begin({"batch": "measuring", "adapted": "adapting layers", "gained": "taking first steps"}[kind])
        self.advance(record["done"], record["total"])


def card_plan_lines(plan: dict[str, Any]) -> dict[str, str]:
    """What would be measured."""
    return {
        "model": f"{plan['model']}, {plan['layers']} layers",
        "measured on": f"{plural(plan['examples'], 'example')} in {plural(plan['batches'], 'batch', 'batches')}",
        "trained first": ", ".join(plan["fresh"]) or "nothing",
    }


def print_card(card: LayerCard, folder: Path) -> None:
    """The layers, best first marked, and the placements that are proposed."""
    from ..card.recommend import recommendations, why_none
    from ..report.card import partners

    console = Console(file=sys.stdout)
    table = Table(title="Layers", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    columns = ["layer", "fresh", "±", "resnorm", "gradient", "energy", "like", "ms"]
    tried = card.layers[0].performance is not None
    first = _first_gains(card)
    for name in columns[:4] + ["trained"] * tried + ["first"] * bool(first) + columns[4:]:
        table.add_column(name, justify="right", no_wrap=True)
    best = sorted(range(len(card.layers)), key=lambda i: -card.layers[i].fresh)[: max(1, len(card.layers) // 4)]
    for number, (layer, partner) in enumerate(zip(card.layers, partners(card), strict=True)):
        cost = layer.cost
        cells = [
            str(number),
            _number(layer.fresh),
            "" if layer.low is None or layer.high is None else f"{(layer.high - layer.low) / 2:.2g}",
            _number(layer.resnorm),
            *([_number(layer.performance)] if tried else []),
            *([_number(first[number])] if first else []),
            _number(layer.gradient_norm),
            _number(layer.energy),
            "" if partner is None else f"{partner['layer']} {partner['coupling']:.2f}",
            "" if cost.forward_ms is None else _number(cost.forward_ms + (cost.backward_ms or 0.0)),
        ]
        table.add_row(*cells, style="bold" if number in best else None)
    console.print(table)
    reason = why_none(card)
    proposed = Table(title="Where the adapters should go", title_justify="left")
    for name, justify in (("bound", "left"), ("gain", "right"), ("cost", "right"), ("layers", "left")):
        proposed.add_column(name, justify=justify)
    for what, _, placement in recommendations(card):
        layers = ", ".join(map(str, placement.layers))
        proposed.add_row(what, f"{placement.gain:.0%}", f"{placement.cost:.0%}", layers)
    console.print(reason or proposed, highlight=False, soft_wrap=bool(reason))
    console.print(
        "fresh: resnorm on batches that nothing was fitted to, ± half its 95% interval; like: the layer that does "
        "most of the same, and its coupling"
        if card.held_out
        else "like: the layer that does most of the same, and its coupling; all batches were fitted to",
        highlight=False,
        soft_wrap=True,
    )
    if first:
        console.print(
            f"first: the fall of the loss that at most {card.settings['gain_steps']} steps of "
            f"{card.settings['adapt_optimizer']} are predicted to give",
            highlight=False,
            soft_wrap=True,
        )
    if card.stability is not None:
        console.print(
            f"on batches drawn anew the layers keep their order with a rank correlation of {card.stability:.2f}",
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"card: {escape(str(folder / 'card.html'))}", highlight=False, soft_wrap=True)


def _first_gains(card: LayerCard) -> list[float]:
    """Of the optimizer that layers are adapted by; the page has both. Empty where they were not measured."""
    found = [getattr(layer, card.settings.get("adapt_optimizer", "adamw")) for layer in card.layers]
    return [one.gain for one in found if one is not None]


def print_diff(difference: CardDifference, one: str, other: str) -> None:
    """Layer by layer, then what both agree on."""
    console = Console(file=sys.stdout)
    table = Table(title="Fresh resnorm", title_justify="left")
    table.add_column("layer")
    for name in (one, other):
        table.add_column(escape(name), justify="right")
    for name, first, second in difference.rows:
        table.add_row(escape(name), _number(first), _number(second))
    console.print(table)
    tops = sorted({1, len(difference.rows) // 4, len(difference.rows) // 2} & set(difference.top))
    shares = ", ".join(f"of the best {k} {difference.top[k]:.0%}" for k in tops)
    model = "the same model" if difference.same_model else "different models"
    data = "the same data" if difference.same_data else "different data"
    low, high = difference.rank_interval
    lines = [
        f"{model}, {data}",
        f"rank correlation {difference.rank_correlation:.3f} (95% over layers: {low:.2f} to {high:.2f})",
    ]
    if shares:
        lines.append(f"shared: {shares}")
    if difference.coupling_difference is not None:
        lines.append(f"couplings differ by {difference.coupling_difference:.3f} on average")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if math.isfinite(value) else "–"
