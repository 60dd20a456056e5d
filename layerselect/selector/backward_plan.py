"""Which layers take gradients in the next backward pass, and the selections that are known before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.base import check_mask
from ..core.schedule import Schedule
from ..modes.freeze import LayerFreezer
from ..rules import MEASURED, Rule
from ..utils.mirror import Mirror
from ..utils.saved_schema import Anything, Fields, Flag, Items, Mismatch, Whole, check
from ..utils.saved_tensors import Numbers


class BackwardPlan:
    """Decides before each backward pass what it must compute.

    Rules that look at no score are asked for their selection ahead of the pass, in every mode. In mode ``freeze``,
    :meth:`prepare` also lets only those layers take gradients that the selection asks for; other modes never call it.

    The plan is made for the number of the coming step, which is the number of steps closed so far. Where the device
    decides, the host is not told at once that a step was skipped there (see :mod:`layerselect.core.scaling`), so this
    number is the host's belief: :meth:`closed` says what it is.

    Args:
        freezer: switches the layers.
        schedule: when selections and probes are due.
        num_layers: L.
        lag: how many steps late the host learns of selections made on ``device``.
        has_outer: whether anything outside the layers trains.
    """

    def __init__(
        self,
        freezer: LayerFreezer,
        schedule: Schedule,
        *,
        num_layers: int,
        lag: int,
        device: torch.device,
        has_outer: bool,
    ) -> None:
        self.freezer = freezer
        self._lag = lag
        self._mirror = Mirror(num_layers, lag, device)
        self._counts = Mirror(1, lag, device, torch.int64)  # of steps closed
        self._schedule = schedule
        self._num_layers = num_layers
        self._has_outer = has_outer
        self._preselected: Tensor | None = None
        self._preselected_for = -1
        self._may_skip = False

    def preselected(self, rule: Rule, step: int) -> Tensor | None:
        """``bool`` [L] on the host: the selection in force in ``step``, where the rule makes it without scores.

        A step that is due to select gets one selection, however often the step is tried. ``None`` before the first
        selection, and after a change of rules until the next one.
        """
        if rule.uses_scores:
            return None
        if self._schedule.selects_in(step) and self._preselected_for != step:
            # The rule sees all layers as measured. Layers that are not finite are left out of its selection step by
            # step, also where one selection serves several steps.
            out = self.freezer.floor if rule.draws else 0
            count = self._num_layers - out
            scores, status = torch.full((count,), float("nan")), torch.full((count,), MEASURED, dtype=torch.uint8)
            mask = check_mask(rule, getattr(rule.select(scores, status), "mask", None), count)
            mask = mask if not out else torch.cat([torch.zeros(out, dtype=torch.bool), mask])
            # As long as the selection is the same, so is the tensor: then nothing is copied to a device.
            if self._preselected is None or not mask.equal(self._preselected):
                self._preselected = mask
            self._preselected_for = step
        return self._preselected

    def forget_drawn(self) -> None:
        """The rule that drew is gone."""
        self._preselected, self._preselected_for = None, -1

    def closed(self, wanted: Tensor, steps: Tensor, believed: int, *, may_skip: bool) -> int:
        """Mode ``freeze``: takes note of a step that was closed, or that was handed to a device which may have skipped
        it.

        Args:
            wanted: bool [L], the layers that the selection just made asks for. Their copy to the host starts here.
            steps: int64 [], the number of steps closed, as the core counts them.
            believed: the same as the host believes, this step included.
            may_skip: whether a device may have skipped this step.

        Returns:
            What the host is to believe from now on. With skips it takes the device's count of ``lag`` calls ago and
            assumes that none was skipped since: right ``lag`` steps after a skipped one, and never too small. It
            depends on nothing but the counts, so runs repeat bit for bit.
        """
        self._may_skip = self._may_skip or may_skip
        self._mirror.push(wanted)
        self._counts.push(steps.reshape(1) if self._may_skip else torch.tensor([believed]))
        known = self._counts.read() if self._may_skip else None
        return believed if known is None else known[0] + self._lag

    def prepare(self, rule: Rule, step: int) -> None:
        """Lets the layers take gradients that need them in the backward pass of ``step``, and no others."""
        preselected = self.preselected(rule, step)
        if preselected is not None:
            # The selection is known before the backward pass: only these layers need gradients, and all of them
            # have one when the optimizer steps.
            wanted = preselected.tolist()
        elif not rule.uses_scores:
            wanted = self.freezer.active if step > self._schedule.warmup else [True] * self._num_layers
        elif self._schedule.measures_all_in(step):
            wanted = [True] * self._num_layers
        else:
            wanted = self._mirror.read() or [True] * self._num_layers
        if not any(wanted[self.freezer.floor :]) and not self._has_outer:
            # Without a single trained parameter the backward pass could not even start.
            wanted = [True] * self._num_layers
        self.freezer.apply(wanted)

    def state_dict(self) -> dict[str, Any]:
        return {
            "active": self.freezer.planned,
            "mirror": self._mirror.state_dict(),
            "counts": self._counts.state_dict(),
            **(
                {}
                if self._preselected is None
                else {"drawn": {"mask": self._preselected.clone(), "step": self._preselected_for}}
            ),
        }

    def check_state(self, state: Any) -> None:
        """Whether :meth:`load_state_dict` can take it.

        Raises:
            Mismatch: it is no such state.
            LayerSelectError: the state was saved with another lag.
        """
        preselected = Fields({"mask": Numbers("bool", (self._num_layers,)), "step": Whole(low=-1)})
        needed = {"active": Items(Flag(), length=self._num_layers), "mirror": Anything(), "counts": Anything()}
        check(Fields(needed, optional={"drawn": preselected}), state)
        if not self._has_outer and not any(state["active"]):
            raise Mismatch("active", "lets no layer take gradients, so that no backward pass could start")
        self._mirror.check_state(state["mirror"], "mirror")
        self._counts.check_state(state["counts"], "counts")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues there; which layers take gradients is restored by ``freezer.apply(state["active"])``."""
        self._mirror.load_state_dict(state["mirror"])
        self._counts.load_state_dict(state["counts"])
        self.forget_drawn()
        if "drawn" in state:
            self._preselected, self._preselected_for = (
                state["drawn"]["mask"].clone(),
                int(state["drawn"]["step"]),
            )
