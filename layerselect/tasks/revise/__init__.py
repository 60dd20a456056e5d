"""Revision generation (Intention-Tuning): write the revision that the intentions ask for."""

from .config import ReviseConfig
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
