"""A trained adapter folded into the weights of its model."""

from .merge import Merged, merge_adapter

__all__ = ["Merged", "merge_adapter"]
