"""What a selector has measured and decided, as live tensors."""

from __future__ import annotations

from torch import Tensor

from ..core.base import Core


class Readings:
    """The tensors of a core under their names."""

    _core: Core

    @property
    def scores(self) -> Tensor:
        """float32 [L], live, on the device: each layer's last finite score; NaN where it was never measured.
        Reading values from it is the caller's synchronisation.
        """
        return self._core.state["scores"]

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
