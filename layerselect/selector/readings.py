"""What a selector knows: what it has measured and decided, as live tensors, and how far it is."""

from __future__ import annotations

from torch import Tensor

from ..core.base import Core
from ..core.history import History
from ..layers.find import LayeredParameters
from ..modes.freeze import LayerFreezer
from ..rules import Rule
from ..state_cache import StateCache
from ..state_cache.selection import CacheSelection
from .by_map import scores_by_map


class Readings:
    """Part of :class:`~layerselect.FastSelector`: everything that is read from it and changes nothing."""

    num_layers: int
    mode: str
    score: str
    _core: Core
    _found: LayeredParameters
    _rule: Rule
    _cache: CacheSelection
    _freezer: LayerFreezer
    _closed: bool
    _step: int

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self._step} steps"
        return f"<FastSelector of {self.num_layers} layers, rule {self._rule.name}, mode {self.mode}, {state}>"

    @property
    def steps(self) -> int:
        """How many steps have been closed. Steps that a ``GradScaler`` skips do not count.

        A device does not tell the host at once that a step was skipped. In mode ``freeze`` the host counts such a step
        until ``lag`` steps later, and plans probes, random selections and what takes gradients accordingly. In the
        other modes none of this depends on the count, and the host counts it for good. The device counts the
        selections, and leaves skipped steps out. It alone counts the steps that a CUDA graph replays:
        ``state_dict()["step"]`` has them.
        """
        return self._step

    @property
    def scores(self) -> Tensor:
        """float32 [L], live, on the device: each layer's last finite score; NaN where it was never measured.
        Reading values from it is the caller's synchronisation.
        """
        return self._core.state["scores"]

    def scores_by_map(self) -> dict[str, Tensor]:
        """What the scores of the layers consist of, by the maps inside them, such as ``"self_attn.q_proj"``. A step has
        measured it in any case: it takes no launch more, and only this call does some work on the device.

        A map is the module that holds the parameters. What an adapter adds belongs to the map that it is put on.

        Returns:
            float32 [L] for each map, on the device: its score in each layer, of the step that the layer's score is of;
            NaN where the layer has no such map, was never measured, or had a gradient last that is not finite. A map's
            score is formed as the layer's (``score=``): for ``"l2"`` and ``"sqrt_sum"`` the squares over the maps of a
            layer add up to the square of the layer's score, for ``"rms"`` their mean over the elements is that square.
            On a device, a step that a ``GradScaler`` skips counts, and with ``capture="step"`` those of a layer that
            took no gradient are NaN.
        """
        return scores_by_map(self._found, self.scores, self._core.parameter_sums, self.score)

    @property
    def mask(self) -> Tensor:
        """``bool`` [L], live, on the device: the current selection; all layers before the first one."""
        return self._core.state["mask"]

    @property
    def threshold(self) -> Tensor:
        """float32 [], live, on the device: where the rule cut the scores; NaN where it cuts none."""
        return self._core.state["threshold"]

    @property
    def kept_share(self) -> Tensor:
        """float32 [], live, on the device: the share of the scores that a rule with a budget keeps of its base's
        selection; NaN with other rules.
        """
        return self._core.state["kept_share"]

    @property
    def step_cost(self) -> Tensor:
        """float32 [], live, on the device: what the last selection costs by the rule's reckoning, as a fraction of the
        step that trains all layers; NaN with rules that know no costs.
        """
        return self._core.state["step_cost"]

    @property
    def frequency(self) -> Tensor:
        """int64 [L], live, on the device: in how many selections each layer was chosen (G_l)."""
        return self._core.state["frequency"]

    @property
    def trained_frequency(self) -> Tensor:
        """int64 [L], live, on the device: in how many selections each layer was chosen and had a gradient in that step.
        In mode ``freeze`` a rule may choose a layer that took none; it then trains from the next step on.
        """
        return self._core.state["trained_frequency"]

    @property
    def total_norm(self) -> Tensor:
        """float64 [], live, on the device: the L2 norm of the gradients that the last step captured, those of outer
        parameters included, as the backward pass left them; of a skipped step, too.
        """
        return self._core.state["total_norm"]

    @property
    def nonfinite(self) -> Tensor:
        """int64 [L], live, on the device: in how many steps each layer's gradient was not finite."""
        return self._core.state["nonfinite"]

    @property
    def history(self) -> History:
        """What was measured and chosen in every step."""
        return self._core.history

    @property
    def cut(self) -> int | None:
        """How many layers are below the cut of the state cache; ``None`` where there is no cut, or none yet."""
        return self._cache.depth

    @property
    def state_cache(self) -> StateCache | None:
        """The cache of hidden states; ``None`` until the cut is known."""
        return self._cache.state_cache

    def selected(self) -> list[int]:
        """The indices of the selected layers, ascending. A host copy: this call may wait for the device."""
        return self.mask.nonzero().flatten().tolist()

    def trained(self) -> list[int]:
        """The indices of the layers whose parameters take gradients in the next backward pass."""
        return [index for index, active in enumerate(self._freezer.active) if active]
