"""Rules: how scores become a selection. A rule is one file of this folder; nothing else names it."""

from __future__ import annotations

import importlib
from typing import Any

from ..layers.view import ModelView
from ..status import EXCLUDED, MEASURED, NEVER_MEASURED
from .all_layers import All
from .base import Rule, Selection
from .block_cyclic import BlockCyclic
from .cosine import Cosine
from .cost_aware import CostAware
from .fixed import Fixed
from .fraction import Fraction
from .held_scores import HeldScores
from .ist import Ist
from .lisa import Lisa
from .lower import Lower
from .middle import Middle
from .no_layers import NoLayers
from .probe_once import ProbeOnce
from .random_layers import RandomLayers
from .registry import available, make_rule, rules_help
from .threshold import Threshold
from .topk import TopK
from .uniform import Uniform
from .upper import Upper
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
    "HeldScores",
    "Ist",
    "LayerCardRule",
    "Lisa",
    "Lower",
    "Middle",
    "ModelView",
    "NoLayers",
    "ProbeOnce",
    "RandomLayers",
    "Rule",
    "Selection",
    "Threshold",
    "TopK",
    "Uniform",
    "Upper",
    "VarianceSplit",
    "WeightNorm",
    "available",
    "make_rule",
    "rules_help",
]


def __getattr__(name: str) -> Any:
    if name == "LayerCardRule":  # a card is made of more than rules may be
        return importlib.import_module("layerselect.card.rule").LayerCardRule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
