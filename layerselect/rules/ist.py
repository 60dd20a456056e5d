"""IST: layers drawn by an importance that is learned from what suppressing them does to the loss."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import LayerSelectError
from ..layers.view import ModelView
from ..utils.arguments import seeded
from ..utils.renamed import OF_RULES, takes_old_names
from ..utils.saved_schema import Whole
from ..utils.saved_tensors import Numbers
from .base import GeneratorState, Rule, Selection, check_count, check_fraction, check_saved, drawn

logger = logging.getLogger(__name__)

#: The loss of the model if layer l's adapters count only ``scales[l]`` as much, on the batch for a given update. All
#: ablations of an update are to see the same batch; ranks of a distributed run must return the same number.
LossWithout = Callable[[Sequence[float], int], "float | Tensor"]


@dataclass(eq=False)
class Ist(Rule):
    """Every selection draws a share of the layers at random, and more important layers are drawn more often. Every
    ``update_every`` selections the importance is updated, by ``ablations`` forward passes in which half of the layers
    are suppressed.

    Source: Yao et al., Layer-wise Importance Matters (IST), Findings of EMNLP 2024, arXiv 2410.11772, as in the public
    code of the authors: each layer has a value v_l, at first 0, and p_l = sigmoid(v_l). An ablation draws distinct
    layers with weights p_l and multiplies what their adapters add by ``suppress`` (their code: the adapters' scaling;
    half of the layers is suppressed to a quarter). From the losses of one batch, r_j = exp(-loss_j) - the mean of
    these; for every layer l that ablation j suppressed, v_l += rate r_j p_l (1 - p_l): a layer that is not missed goes
    up. The layers to train are drawn, distinct, with weights sigmoid(-v_l). Numbers of layers are rounded down, at
    least one. The ablations of an update differ; with so few layers that there are not enough different ones, all there
    are.

    The rule needs a :data:`LossWithout` before a selector is built with it::

        rule = Ist()
        rule.ablation = Ablation(model, loss, held_out_training_batches)  # layerselect.rules.ablation
        selector = FastSelector(model, rule)

    An update costs ``ablations`` forward passes, and on a device the host waits for them. In mode ``freeze`` they run
    at the end of ``selector.step()``, so with the weights from before the optimizer's step.

    Args:
        update_every: selections between two updates.
        ablations: forward passes in an update, at least 2.
        suppress: what is left of a suppressed adapter's contribution.
        rate: of the update.
        train_fraction: the share of layers that train.
        suppress_fraction: the share of layers that an ablation suppresses.
        seed: seed of the rule's own generator. It lives on the host, so that every rank draws the same layers.

    Attributes:
        ablation: see above.
    """

    update_every: int = 10
    ablations: int = 3
    suppress: float = 0.25
    rate: float = 10.0
    train_fraction: float = 0.25
    suppress_fraction: float = 0.5
    seed: int = 0
    ablation: LossWithout | None = field(default=None, init=False, repr=False)

    if not TYPE_CHECKING:

        @property
        def probe(self) -> LossWithout | None:
            """Its old name."""
            return self.ablation

        @probe.setter
        def probe(self, loss: LossWithout | None) -> None:
            warnings.warn("rule 'ist': its attribute probe is called ablation now", FutureWarning, stacklevel=2)
            self.ablation = loss

    name = "ist"
    example = "ist:update_every=10"
    uses_scores = False

    def __post_init__(self) -> None:
        for option in ("update_every", "ablations"):
            check_count(self.name, option, getattr(self, option))
        for option in ("train_fraction", "suppress_fraction"):
            check_fraction(self.name, option, getattr(self, option))
        if self.ablations < 2:
            raise LayerSelectError("rule 'ist': ablations=1 has nothing to compare with; use at least 2")
        if not 0.0 <= self.suppress < 1.0:
            raise LayerSelectError(f"rule 'ist': suppress={self.suppress!r} is not in [0, 1)")
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise LayerSelectError(f"rule 'ist': rate={self.rate!r} is not a number above 0")
        self._generator = seeded(self.name, self.seed)
        self._selections = 0

    def bind(self, layer_names: list[str], backend: str = "auto") -> None:
        super().bind(layer_names, backend)
        self._values = torch.zeros(len(layer_names), dtype=torch.float64)

    def prepare(self, view: ModelView) -> None:
        if self.ablation is None:
            raise LayerSelectError(
                "rule 'ist' needs an ablation: build Ist(), set its attribute ablation to a "
                "layerselect.rules.ablation.Ablation over held-out training batches, and pass that rule"
            )
        ablated = getattr(self.ablation, "layer_names", view.layer_names)
        if ablated != view.layer_names:
            raise LayerSelectError(
                f"rule 'ist': its ablation is for {len(ablated)} layers from {ablated[0]!r} on, the selector has "
                f"{len(view.layer_names)} from {view.layer_names[0]!r} on: build both with the same model and layers"
            )

    def select(self, scores: Tensor, status: Tensor) -> Selection:
        if self._selections and self._selections % self.update_every == 0:
            self._update(self._selections // self.update_every - 1)
        self._selections += 1
        return drawn(self._draw(-self._values, self.train_fraction), status)

    def _draw(self, values: Tensor, fraction: float) -> list[int]:
        """Distinct layers, drawn one after the other with weights sigmoid(values), ascending."""
        count = max(1, int(self._num_layers * fraction))
        return sorted(torch.multinomial(values.sigmoid(), count, generator=self._generator).tolist())

    def _update(self, number: int) -> None:
        assert self.ablation is not None
        suppressed = self._different_draws()
        losses = []
        for layers in suppressed:
            scales = [self.suppress if layer in layers else 1.0 for layer in range(self._num_layers)]
            losses.append(torch.as_tensor(self.ablation(scales, number), dtype=torch.float64).detach())
        # One wait for the device, if they are on one.
        rewards = torch.stack(losses).neg().exp().cpu()
        rewards -= rewards.mean()
        if not rewards.isfinite().all():
            logger.warning("rule 'ist': an ablation's loss is not finite, so the importance stays as it is")
            return
        p = self._values.sigmoid()
        slope = self.rate * p * (1 - p)
        for layers, reward in zip(suppressed, rewards, strict=True):
            self._values[layers] += reward * slope[layers]

    def _different_draws(self) -> list[list[int]]:
        found: list[list[int]] = []
        most = min(self.ablations, math.comb(self._num_layers, max(1, int(self._num_layers * self.suppress_fraction))))
        for _ in range(1000):  # enough, unless some layers are hardly ever drawn
            layers = self._draw(self._values, self.suppress_fraction)
            if layers not in found:
                found.append(layers)
            if len(found) == most:
                break
        return found

    def state_dict(self) -> dict[str, Any]:
        return {
            "generator": self._generator.get_state(),
            "selections": self._selections,
            "values": self._values.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        values = Numbers("float", tuple(self._values.shape), nan=False, infinite=False)
        check_saved(self, state, {"generator": GeneratorState(), "selections": Whole(), "values": values})
        self._generator.set_state(state["generator"])
        self._selections = int(state["selections"])
        self._values.copy_(state["values"])


Ist.__init__ = takes_old_names(OF_RULES["ist"], "Ist")(Ist.__init__)  # type: ignore[method-assign]
