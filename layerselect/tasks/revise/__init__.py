"""Revision generation (Intention-Tuning): write the revision that the intentions ask for."""

from .config import ReviseConfig
from .generate import GenerationConfig
from .handover import Handover
from .results import SplitResult
from .rewrite import Rewriter
from .run import ReviseResult, run_revise

__all__ = [
    "GenerationConfig",
    "Handover",
    "ReviseConfig",
    "ReviseResult",
    "Rewriter",
    "SplitResult",
    "run_revise",
]
