"""Revision generation (Intention-Tuning): write the revision that the intentions ask for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PLACES[name], __name__), name)
    globals()[name] = value
    return value
