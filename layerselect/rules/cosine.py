"""IR-Tuning's ablation by hidden states: the layers that turn their input most."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from ..distributed.engines import processes
from ..errors import LayerSelectError
from ..layers.model_hooks import ModelHook
from ..layers.padding import MasksAround, PaddingMasks
from ..layers.view import ModelView
from ..status import EXCLUDED
from ..utils.mirror import Mirror
from ..utils.saved_schema import Mapped
from ..utils.saved_tensors import Numbers
from .base import MirrorState, Rule, Selection, check_saved, no_threshold
from .wrapping import Wrapping, base_rule, choose_by

logger = logging.getLogger(__name__)

_PATIENCE = 3  #: selections without anything measured, before it says so


@dataclass(eq=False)
class Cosine(Wrapping):
    """``base`` decides by 1 - s_l, where s_l is the cosine similarity of a layer's input and output hidden states, in
    the mean over all tokens of the forward passes since the last selection: a layer that changes little trains little.

    Source: the ablation of Liu & Litman, arXiv 2510.00268. Their code averages the hidden states of a batch before it
    compares them, padding included, and looks at the first batch only; here every token is compared with itself, and
    padding, where a mask ``attention_mask`` [batch, tokens] tells of it, does not count.

    Measured by hooks on the layers, on the device; evaluation (no gradients, eval mode) is not measured. Ranks add up
    their sums. The host learns the similarities at once on the CPU, elsewhere a selection late, so that it need not
    wait. Until something is known, all layers train. In mode ``freeze`` the selection is made before the forward pass,
    from the passes before it.

    Args:
        base: a rule, or its name with options, that decides by scores; it sees 1 - s_l, from 0 to 2.
    """

    base: str | Rule = "variance"

    name = "cosine"
    example = 'cosine:base="topk:k=4"'
    uses_scores = False  # not those of the gradients

    def __post_init__(self) -> None:
        self.base = base_rule(self.name, self.base)
        self._handles: list[Any] = []
        self._padding: PaddingMasks | None = None
        self._unseen = 0  #: selections before which nothing was measured

    def prepare(self, view: ModelView) -> None:
        self.close()
        self.decider.prepare(view)
        count, device = len(view.modules), view.device
        self._unseen = 0
        # For each layer the sum of the similarities, and how many tokens are in it.
        self._sums = [torch.zeros(2, dtype=torch.float64, device=device) for _ in range(count)]
        self._known = torch.full((count,), float("nan"), dtype=torch.float64, device=device)
        self._mirror = Mirror(count, 0 if device.type == "cpu" else 1, device, dtype=torch.float64)
        self._padding = PaddingMasks(view.model, view.modules)
        self._handles = [
            module.register_forward_hook(
                ModelHook(_Turning(name, sums, self._padding.around(module))), with_kwargs=True
            )
            for name, sums, module in zip(view.layer_names, self._sums, view.modules, strict=True)
        ]

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._padding is not None:
            self._padding.close()
            self._padding = None
        self.decider.close()

    def without_model(self) -> dict[str, Any]:
        return {"_handles": [], "_padding": None, "_mirror": None}

    def after_step(self, scores: Tensor, status: Tensor) -> None:
        self.decider.after_step(scores, status)

    def select(self, scores: Tensor, status: Tensor) -> Selection:
        sums = torch.stack(self._sums)
        torch._foreach_zero_(self._sums)
        if processes() > 1:
            torch.distributed.all_reduce(sums)
        total, tokens = sums.unbind(1)
        self._known = (total / tokens).where(tokens > 0, self._known)
        self._mirror.push(1.0 - self._known)
        values = self._mirror.read()
        if values is None or all(math.isnan(value) for value in values):
            self._note_unseen()
            return Selection(status != EXCLUDED, no_threshold(status))
        return choose_by(self.decider, values, status)

    def _note_unseen(self) -> None:
        self._unseen += 1
        if self._unseen == _PATIENCE:
            logger.warning(
                "rule 'cosine' has measured nothing in %d selections, so all layers train: the layers ran without "
                "their hooks, as in a model that was compiled and called before the selector was built, or no token "
                "counted; build the selector before the first call, or call torch.compiler.reset() after building it",
                _PATIENCE,
            )

    def state_dict(self) -> dict[str, Any]:
        return {
            "sums": torch.stack(self._sums).cpu(),
            "known": self._known.cpu().clone(),
            "mirror": self._mirror.state_dict(),
            "base": self.decider.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        layers = len(self._sums)
        sums, known = Numbers("float", (layers, 2)), Numbers("float", (layers,))
        check_saved(self, state, {"sums": sums, "known": known, "mirror": MirrorState(self._mirror), "base": Mapped()})
        self.decider.load_state_dict(state["base"])
        self._mirror.load_state_dict(state["mirror"])
        for own, saved in zip(self._sums, state["sums"], strict=True):
            own.copy_(saved)
        self._known.copy_(state["known"])


class _Turning:
    """The hook of one layer: adds up the similarities of its tokens.

    A compiler that compiles layer by layer makes one graph for all of them as long as this asks for no name, number or
    identity of a layer.

    Args:
        name: the layer's.
        sums: float64 [2], the similarities and how many they are.
        masks: which tokens are padding.
    """

    def __init__(self, name: str, sums: Tensor, masks: MasksAround) -> None:
        self._name, self._sums, self._masks = name, sums, masks

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not (module.training or torch.is_grad_enabled()):
            return
        before = _hidden([*args, kwargs.get("hidden_states"), *kwargs.values()])
        after = _hidden([output])
        if before is None or after is None or before.shape != after.shape:
            raise LayerSelectError(
                f"rule 'cosine': layer {self._name!r} turns {_shape(before)} into {_shape(after)}, which cannot "
                "be compared: use another rule for this model"
            )
        mask = self._masks.mask(before.shape[:-1])
        with torch.no_grad():
            similarity = cosine_similarity(before.float(), after.float(), dim=-1)
            counted = similarity.isfinite()
            if mask is not None:
                counted &= mask.to(counted.device, non_blocking=True)
            sums = torch.stack([similarity.double().where(counted, 0.0).sum(), counted.sum().double()])
            self._sums += sums.to(self._sums.device, non_blocking=True)


def _hidden(values: Sequence[Any]) -> Tensor | None:
    """The first tensor of hidden states among a layer's arguments, or in its output."""
    for value in values:
        if isinstance(value, (tuple, list)):
            value = _hidden(value)
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() >= 2:
            return value
    return None


def _shape(value: Tensor | None) -> str:
    return "no tensor" if value is None else f"hidden states of shape {tuple(value.shape)}"
