"""Placements that nobody meant: broken Layer Cards, and odd bounds, as ``card.place`` and the rule ``layer-card`` get
them, through a selector that trains the chosen layers; and broken files of placements, as their rule and ``peft`` get
them.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from layerselect import FastSelector
from layerselect.card import LayerCard
from layerselect.placement import Placement
from layerselect.placement.rule import PlacementRule
from layerselect.rules import make_rule

from .mutate import ODD_VALUES
from .part_saved import broken, copy_with
from .trained import Stack, card, step, trained

_BOUNDS: dict[str, tuple[Any, ...]] = {
    "k": (None, 0, 1, 2, 4, 5, -1, 2.0, 10**400),
    "budget": (None, 0, 0.0, 0.3, 0.5, 1.0, 1.5, -0.1, float("nan"), float("inf"), 1e-300),
    "objective": ("performance", "cost", "balanced", "", "fast"),
}
_RANKS: dict[str, tuple[Any, ...]] = {
    "budget": (0, 1, 8, 100, 0.5, 1.0, 2.0, -1, 10**9),
    "by": ("scores", "frequency", "uniform", ""),
    "most": (None, 1, 2, 4, 0, -1, 10**9),
}


def cases(rng: random.Random) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Without end: one card and its bounds a case."""
    right = Path("right").resolve()
    right.mkdir(exist_ok=True)
    card().save(right / "card.json")
    card().propose(2, rank_budget=50).save(right / "placement.json")
    place = Path("broken").resolve()
    measured = trained("variance")
    while True:
        if rng.random() < 0.15:
            given = {
                name: rng.choice(values) for name, values in _RANKS.items() if name == "budget" or rng.random() < 0.5
            }
            if rng.random() < 0.5:
                given[rng.choice(list(_RANKS))] = rng.choice(ODD_VALUES)
            yield ascii(f"rank_pattern({given})")[:300], lambda given=given: measured.rank_pattern(**given)
            continue
        if rng.random() < 0.25:
            whole = rng.random() < 0.3
            unbroken = (right / "placement.json").read_bytes()
            way, content = ("whole", unbroken) if whole else broken(right / "placement.json", rng)
            maps = rng.choice((None, ["0"], *ODD_VALUES))

            def read(content: bytes | None = content, maps: Any = maps) -> Any:
                copy_with(right, place, right / "placement.json", content)
                return by_file(place / "placement.json", maps)

            yield ascii(f"{way}, placement.json, maps {maps!r}")[:300], read
            continue
        bounds = {name: rng.choice(values) for name, values in _BOUNDS.items() if rng.random() < 0.5}
        if rng.random() < 0.2:
            bounds[rng.choice(list(_BOUNDS))] = rng.choice(ODD_VALUES)
        whole = rng.random() < 0.3
        way, content = ("whole", (right / "card.json").read_bytes()) if whole else broken(right / "card.json", rng)
        by_text = rng.random() < 0.4

        def run(content: bytes | None = content, bounds: dict[str, Any] = bounds, by_text: bool = by_text) -> Any:
            copy_with(right, place, right / "card.json", content)
            return by_rule(place, bounds) if by_text else by_card(place, bounds)

        yield ascii(f"{way}, {bounds}, {'rule' if by_text else 'card'}")[:300], run


def by_card(folder: Path, bounds: dict[str, Any]) -> Any:
    """Reads the card, and asks it."""
    found = LayerCard.load(folder)
    k = bounds.get("k")
    more = {name: value for name, value in bounds.items() if name != "k"}
    return found.place(k, **more), found.names, found.to_dict()


def by_file(path: Path, maps: Any) -> Any:
    """Reads the placement, trains by it, and makes a configuration of ``peft`` of it."""
    found = Placement.load(path)
    found.save(path.with_name("again.json"))
    with FastSelector(Stack(), PlacementRule(str(path)), mode="gate") as selector:
        step(selector)
    return found.lora_config(maps)


def by_rule(folder: Path, bounds: dict[str, Any]) -> Any:
    """As ``--rule`` has it, in a selector."""
    options = "".join(f";{name}={value}" for name, value in bounds.items() if value is not None)
    rule = make_rule(f'layer-card:card="{folder}"{options}')
    selector = FastSelector(Stack(), rule, mode="gate")
    try:
        for _ in range(2):
            step(selector)
        return selector.frequency.tolist()
    finally:
        selector.close()
        shutil.rmtree(folder)
