"""Rules: how scores become a selection. One file per kind; a new rule touches nothing but the registry."""

from ..status import EXCLUDED, MEASURED, NEVER_MEASURED
from .base import ModelView, Rule, Selection
from .block_cyclic import BlockCyclic
from .cosine import Cosine
from .cost_aware import CostAware
from .ist import Ist
from .layer_card import LayerCardRule
from .lisa import Lisa
from .probe_once import ProbeOnce
from .random_layers import RandomLayers
from .ranked import Fraction, Threshold, TopK
from .registry import available, make_rule
from .static import All, Fixed, NoLayers, Upper
from .variance_split import VarianceSplit
from .weight_norm import WeightNorm

__all__ = [
    "EXCLUDED",
    "MEASURED",
    "NEVER_MEASURED",
    "All",
    "BlockCyclic",
    "Cosine",
    "CostAware",
    "Fixed",
    "Fraction",
    "Ist",
    "LayerCardRule",
    "Lisa",
    "ModelView",
    "NoLayers",
    "ProbeOnce",
    "RandomLayers",
    "Rule",
    "Selection",
    "Threshold",
    "TopK",
    "Upper",
    "VarianceSplit",
    "WeightNorm",
    "available",
    "make_rule",
]
