"""Revision generation (Intention-Tuning): write the revision that the intentions ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...utils.lazy import imported_when_asked_for
from .config import ReviseConfig

if TYPE_CHECKING:
    from .generate import GenerationConfig
    from .results import SplitResult
    from .rewrite import Rewriter
    from .task import ReviseResult, run_revise
    from .transfer import Transfer

__all__ = [
    "GenerationConfig",
    "ReviseConfig",
    "ReviseResult",
    "Rewriter",
    "SplitResult",
    "Transfer",
    "run_revise",
]

#: Where the names are found; importing them reads transformers, which a help page can do without.
_PLACES = {
    "GenerationConfig": ".generate",
    "SplitResult": ".results",
    "Rewriter": ".rewrite",
    "ReviseResult": ".task",
    "run_revise": ".task",
    "Transfer": ".transfer",
}

__getattr__ = imported_when_asked_for(__name__, _PLACES)
