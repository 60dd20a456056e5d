"""IR-Tuning's ablation by weights: the layers whose weights are large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..distributed.sharding import ShardedSums, held_here
from ..errors import LayerSelectError
from ..layers.view import ModelView
from ..status import EXCLUDED
from ..utils.mirror import Mirror
from ..utils.saved_schema import Mapped
from .base import MirrorState, Rule, Selection, check_saved, no_threshold
from .wrapping import Wrapping, base_rule, choose_by, name_pattern


@dataclass(eq=False)
class WeightNorm(Wrapping):
    """``base`` decides by the norm of each layer's weights: sqrt of the sum of squares of all its parameters, the
    frozen ones too.

    Source: the ablation of Liu & Litman, arXiv 2510.00268. Their code takes the weight of the attention's output map
    alone, which ``match="o_proj"`` repeats; it is frozen under LoRA, so that their choice never changes.

    Frozen weights are measured once. The others are measured at each selection, on the device; the host learns the
    result at once on the CPU, elsewhere a selection late, so that it need not wait.

    Args:
        base: a rule, or its name with options, that decides by scores; it sees the norms.
        match: a regular expression; only the parameters of a layer in whose name it is found count.
    """

    base: str | Rule = "variance"
    match: str | None = None

    name = "weight-norm"
    uses_scores = False  # not those of the gradients

    def __post_init__(self) -> None:
        self.base = base_rule(self.name, self.base)
        self._pattern = name_pattern(self.name, self.match)

    def prepare(self, view: ModelView) -> None:
        self.decider.prepare(view)
        own = {id(p) for layer in view.parameters for _, p in layer}
        frozen: list[tuple[int, Tensor]] = []
        moving: list[tuple[int, Tensor]] = []
        for layer, module in enumerate(view.modules):
            found = [p for name, p in module.named_parameters() if p.is_floating_point() and self._pattern.search(name)]
            if not found:
                raise LayerSelectError(
                    f"rule 'weight-norm': match={self.match!r} is found in no name of a weight of layer "
                    f"{view.layer_names[layer]!r}, such as {next(iter(dict(module.named_parameters())))!r}"
                )
            for p in found:
                (moving if id(p) in own or p.requires_grad else frozen).append((layer, p))
        nothing = torch.zeros(len(view.modules), dtype=torch.float64, device=view.device)
        self._frozen = _Squares(frozen, view.device).added_to(nothing)
        self._squares: _Squares | None = _Squares(moving, view.device)
        self._mirror = Mirror(
            len(view.modules), 0 if view.device.type == "cpu" else 1, view.device, dtype=torch.float64
        )

    def close(self) -> None:
        self._squares = None
        self.decider.close()

    def without_model(self) -> dict[str, Any]:
        return {"_squares": None, "_mirror": None}

    def after_step(self, scores: Tensor, status: Tensor) -> None:
        self.decider.after_step(scores, status)

    def select(self, scores: Tensor, status: Tensor) -> Selection:
        assert self._squares is not None
        self._mirror.push(self._squares.added_to(self._frozen).sqrt_())
        norms = self._mirror.read()
        if norms is None:
            return Selection(status != EXCLUDED, no_threshold(status))
        return choose_by(self.decider, norms, status)

    def state_dict(self) -> dict[str, Any]:
        return {"mirror": self._mirror.state_dict(), "base": self.decider.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_saved(self, state, {"mirror": MirrorState(self._mirror), "base": Mapped()})
        self.decider.load_state_dict(state["base"])
        self._mirror.load_state_dict(state["mirror"])


class _Squares:
    """Sums of squares of weights, added up by layer, on a device and without a wait for it.

    Args:
        weights: pairs of a layer and a weight in it, on any device; of a weight in shards, each process measures its
            own.
        device: where the sums are.
    """

    def __init__(self, weights: list[tuple[int, Tensor]], device: torch.device) -> None:
        self._weights = [weight for _, weight in weights]
        self._layers = torch.tensor([layer for layer, _ in weights], dtype=torch.int64, device=device)
        self._spread = ShardedSums.of(self._weights, device)

    @torch.no_grad()
    def added_to(self, sums: Tensor) -> Tensor:
        """``sums`` (float64 [L], left as it is) with the layers' sums of squares added."""
        if not self._weights:
            return sums.clone()
        norms = [torch.linalg.vector_norm(held_here(weight), dtype=torch.float32) for weight in self._weights]
        each = torch.stack([norm.to(sums.device, non_blocking=True) for norm in norms]).double().square()
        if self._spread is not None:
            self._spread.add_up(each)
        return sums.index_add(0, self._layers, each)
