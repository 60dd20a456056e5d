"""What a Layer Card holds of each layer, of each linear map in it, and of what they cost."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class MapFigures:
    """One linear map (definitions in :mod:`layerselect.card.resnorm`).

    Attributes:
        inputs, outputs: d and m.
        rows: the rows it was measured on, padding left out.
        condition: ``None`` where all inputs were zero.
    """

    name: str
    inputs: int
    outputs: int
    rows: int
    resnorm: float
    gradient_norm: float
    energy: float
    condition: float | None


@dataclass(frozen=True)
class CostFigures:
    """What a layer costs, for the batch that ``LayerCard.data["cost_batch"]`` describes.

    Attributes:
        forward_ms, backward_ms: measured, without adapters; ``None`` where they were not, or could not be.
        flops: of the forward pass of its linear maps, counted; the backward pass through them takes as many again.
        saved_bytes: what autograd keeps for its backward pass; ``None`` where it was not measured.
        adapter_parameters: of a LoRA on its maps, of the rank in ``LayerCard.settings["rank"]``.
    """

    forward_ms: float | None
    backward_ms: float | None
    flops: int
    saved_bytes: int | None
    adapter_parameters: int


@dataclass(frozen=True)
class FirstGain:
    """What the first steps of an optimizer are predicted to give a layer that is adapted alone
    (:mod:`layerselect.card.first_gain`).

    Attributes:
        slope: by how much the loss falls, to first order, for each unit of learning rate.
        curvature: of the loss along the same line.
        gain: the fall of the loss after the best number of steps up to ``LayerCard.settings["gain_steps"]``.
    """

    slope: float
    curvature: float
    gain: float


@dataclass(frozen=True)
class LayerFigures:
    """The figures of one layer of a card.

    Attributes:
        resnorm: square root of the sum of its maps' resnorm^2, on the batches that the changes were fitted to.
        fresh: the same on batches that were not fitted to, where there were any (``LayerCard.held_out``): the norm of
            the loss's gradient along the fitted change. Negative where the change does not carry over. Layers are
            ranked by it.
        low, high: its 95 % interval over batches; ``None`` where there were too few.
        gradient_norm: of the mean loss in the weights of all its maps.
        energy: mean over its maps, each weighted by its inputs.
        condition: the largest of its maps.
        performance: by how much adapting this layer alone lowered the validation loss; ``None`` where it was not tried.
        adamw, sgd: what the first steps of these optimizers are predicted to give; ``None`` where it was not measured.
    """

    name: str
    resnorm: float
    fresh: float
    low: float | None
    high: float | None
    gradient_norm: float
    energy: float
    condition: float | None
    performance: float | None
    cost: CostFigures
    maps: list[MapFigures] = field(default_factory=list)
    adamw: FirstGain | None = None
    sgd: FirstGain | None = None

    @property
    def gain(self) -> float:
        """The loss that adapting this layer alone is predicted to remove: half the square of ``fresh``, 0 if that is
        negative.
        """
        return max(0.0, self.fresh) ** 2 / 2
