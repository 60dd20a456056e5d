"""What a training step costs, layer by layer: counted from shapes, or measured."""

from .counted import LayerCosts, count_costs

__all__ = ["LayerCosts", "count_costs"]
