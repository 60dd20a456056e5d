"""The Layer Card: where should the adapters go, measured on a sample of the task before any fine-tuning is paid for."""

from ..placement import Placement
from .card import LayerCard
from .compare import CardDifference, diff
from .figures import CostFigures, FirstGain, LayerFigures, MapFigures
from .measure import measure
from .place import Placer
from .settings import MeasureSettings

__all__ = [
    "CardDifference",
    "CostFigures",
    "FirstGain",
    "LayerCard",
    "LayerFigures",
    "MapFigures",
    "MeasureSettings",
    "Placement",
    "Placer",
    "diff",
    "measure",
]
