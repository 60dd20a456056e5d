"""The second step of Intention-Tuning: a generator starts from what a predictor of intentions has learned.

The predictor's run has recorded how often each layer was selected (G). :func:`pick_layers` takes the layers that matter
from it, :func:`transfer_adapter` starts these in the generator as the predictor ended, and ``Fixed(layers,
probe=True)`` keeps the others frozen and still measured, so that :func:`own_frequency` and :func:`alignment_ratio` can
tell afterwards whether the generator would have chosen the same ones.

Source: Liu & Litman, Findings of EACL 2026, arXiv 2602.00477.
"""

from .frequency import Importance, alignment_ratio, own_frequency, pick_layers, read_importance
from .weights import Transfer, base_fingerprint, transfer_adapter

__all__ = [
    "Importance",
    "Transfer",
    "alignment_ratio",
    "base_fingerprint",
    "own_frequency",
    "pick_layers",
    "read_importance",
    "transfer_adapter",
]
