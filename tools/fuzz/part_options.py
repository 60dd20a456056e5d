"""Options that nobody meant: of ``SelectorCallback``, as callers, plugins and ``layerselect run --selector-option``
give them, through the selector that is built of them, some steps, and what it saves.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from layerselect import FastSelector
from layerselect.cli.run import _parsed
from layerselect.integrations.plugin_options import PREFIX, options_of
from layerselect.integrations.program import in_every_trainer
from layerselect.integrations.selector_options import NAMES
from layerselect.integrations.transformers import SelectorCallback

from .mutate import ODD_TEXTS, ODD_VALUES, break_text
from .part_commands import NUMBERS, RULES
from .trained import LAYERS, Stack, step

#: Values that one option or another takes.
_VALUES: Mapping[str, tuple[Any, ...]] = {
    "rule": RULES,
    "mode": ("auto", "observe", "gate", "freeze", "on"),
    "score": ("l2", "rms", "relative", "norm", "sq"),
    "layers": (
        "layers",
        "layers\\.[01]",
        "layers.*",
        "(",
        "head",
        ["layers.0", "layers.2"],
        ["layers.0"] * 2,
        [],
        "nothing",
    ),
    "lag": ("auto", 0, 1, 2, -1, True),
    "capture": ("auto", "hooks", "post", "grad", "step"),
    "backend": ("auto", "native", "torch", "cuda"),
    "on_freeze": ("keep", "reset", "drop", "zero"),
    "state_cache": ("none", "cached", "auto", "states"),
    "cut": (0, 1, 4, 5, -1, "1", "upper:p=0.5", "fixed:layers=[3]", "lisa"),
    "history": ("a history", "", ".", 1, 0, 10**9, Path("h")),
    "resume": ("refuse", "fresh", "maybe"),
    "log_scores": (True, False, 0),
}
_STEPS = 3


def cases(rng: random.Random) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Without end: one set of options a case."""
    warnings.simplefilter("ignore")
    while True:
        names = rng.sample([*NAMES, "resume", "log_scores"], rng.choice((1, 1, 2, 2, 3, 5)))
        options = {name: _value(name, rng) for name in names}
        if rng.random() < 0.1:
            options[rng.choice(("model", "modes", "k", "layer", "", "a b", *map(str, ODD_TEXTS)))] = rng.choice(
                ODD_VALUES
            )
        if rng.random() < 0.35:
            texts = [f"{name}={value}" for name, value in options.items()]
            if rng.random() < 0.2:
                texts[0] = break_text(texts[0], rng)
            yield ascii(f"--selector-option {texts}")[:300], lambda texts=texts: from_command(texts)
        elif rng.random() < 0.2:
            keys = {PREFIX + name: options.pop(name) for name in ("rule", "mode") if name in options}
            keys |= {rng.choice((PREFIX + "options", "layerselect", "lisa_n_layers")): rng.choice(ODD_VALUES)}
            keys = keys if rng.random() < 0.3 else {**keys, PREFIX + "options": options}
            yield ascii(f"a plugin's {keys}")[:300], lambda keys=keys: from_callback(options_of(keys))
        elif rng.random() < 0.2:
            given = rng.choice((options, rng.choice(ODD_VALUES)))
            yield ascii(f"SelectorCallback({given})")[:300], lambda given=given: SelectorCallback(given)
        else:
            yield ascii(options)[:300], lambda options=options: from_callback(options)


def from_command(texts: list[str]) -> Any:
    """As ``layerselect run --selector-option`` gives them."""
    options = _parsed(texts)
    with in_every_trainer(**options):
        return from_callback(options)


def from_callback(options: Mapping[str, Any]) -> Any:
    """What the callback has taken, the selector must take as well, or refuse."""
    SelectorCallback(**options)
    own = {name: value for name, value in options.items() if name not in ("resume", "log_scores")}
    with suppress(OSError, ValueError, TypeError):  # what no path is was refused above, or will be
        Path(own.get("history")).unlink()  # type: ignore[arg-type]
    selector = FastSelector(Stack(), **own)
    try:
        optimizer = torch.optim.SGD(selector._model.parameters(), lr=0.1)
        selector.attach(optimizer)
        for _ in range(_STEPS):
            step(selector)
        return selector.state_dict(), selector.frequency.tolist(), len(selector.layer_names) == LAYERS
    finally:
        selector.close()


def _value(name: str, rng: random.Random) -> Any:
    chance = rng.random()
    if chance < 0.2:
        return rng.choice(ODD_VALUES)
    if chance < 0.65 and name in _VALUES:
        return rng.choice(_VALUES[name])
    if chance < 0.8:
        return rng.choice(NUMBERS)
    return rng.choice((0, 1, 2, 3, 50, -1, True, False, None, 0.5, 1e300, 2**31, 2**63, 10**400))
