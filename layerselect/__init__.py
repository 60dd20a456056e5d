"""Measures each layer's gradient in the backward pass and decides which layers to train."""

from . import _backend
from ._version import __version__
from .errors import LayerSelectError
from .rules import (
    All,
    BlockCyclic,
    Cosine,
    CostAware,
    Fixed,
    Fraction,
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
from .rules.suppression import SuppressionProbe
from .selector.selector import FastSelector

__all__ = [
    "All",
    "BlockCyclic",
    "Cosine",
    "CostAware",
    "FastSelector",
    "Fixed",
    "Fraction",
    "Ist",
    "LayerCardRule",
    "LayerSelectError",
    "Lisa",
    "ProbeOnce",
    "RandomLayers",
    "Rule",
    "Selection",
    "SuppressionProbe",
    "Threshold",
    "TopK",
    "VarianceSplit",
    "WeightNorm",
    "__version__",
    "make_rule",
]

_backend.say_if_built_for_another()
