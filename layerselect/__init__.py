"""Measures each layer's gradient in the backward pass and decides which layers to train."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .utils.renamed import OF_PACKAGE

if TYPE_CHECKING:
    from .errors import LayerSelectError
    from .rules import (
        All,
        BlockCyclic,
        Cosine,
        CostAware,
        Fixed,
        Fraction,
        HeldScores,
        Ist,
        LayerCardRule,
        Lisa,
        ProbeOnce,
        RandomLayers,
        Rule,
        Selection,
        Threshold,
        TopK,
        VarianceSplit,
        WeightNorm,
        make_rule,
    )
    from .rules.ablation import Ablation
    from .selector.selector import FastSelector

__all__ = [
    "Ablation",
    "All",
    "BlockCyclic",
    "Cosine",
    "CostAware",
    "FastSelector",
    "Fixed",
    "Fraction",
    "HeldScores",
    "Ist",
    "LayerCardRule",
    "LayerSelectError",
    "Lisa",
    "ProbeOnce",
    "RandomLayers",
    "Rule",
    "Selection",
    "Threshold",
    "TopK",
    "VarianceSplit",
    "WeightNorm",
    "__version__",
    "make_rule",
]

#: Where the names of this module come from, unless from the rules.
_PLACES = {"LayerSelectError": "errors", "Ablation": "rules.ablation", "FastSelector": "selector"}

if not TYPE_CHECKING:  # to a checker of types, a module with this function has every name

    def __getattr__(name: str) -> Any:
        """Imports what is asked for, and torch with it: a command has to be able to say that it was interrupted
        meanwhile.
        """
        if name in OF_PACKAGE:
            warnings.warn(f"layerselect.{name} is called {OF_PACKAGE[name]} now", FutureWarning, stacklevel=2)
            name = OF_PACKAGE[name]
        if name in __all__:
            found = getattr(importlib.import_module(f".{_PLACES.get(name, 'rules')}", __name__), name)
            globals()[name] = found
            return found
        if (
            name.isidentifier()
            and not name.startswith("__")
            and importlib.util.find_spec(f"{__name__}.{name}") is not None
        ):
            return importlib.import_module(f".{name}", __name__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
