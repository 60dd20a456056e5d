"""Measures each layer's gradient in the backward pass and decides which layers to train."""

from importlib.metadata import PackageNotFoundError, version

from .errors import LayerSelectError
from .probing import SuppressionProbe
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
from .selector import FastSelector

try:
    __version__ = version("layerselect")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

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
    "make_rule",
]
