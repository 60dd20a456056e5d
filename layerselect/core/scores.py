"""From the sums of squares of the gradients to one score per layer.

With g_p the gradient of parameter p of layer l and n_l the number of the layer's trainable elements:

* ``l2``: s_l = sqrt(sum_p ||g_p||^2), the norm of the layer's gradient.
* ``rms``: s_l = sqrt(sum_p ||g_p||^2 / n_l), which does not grow with the size of the layer.
* ``sqrt_sum``: s_l = sqrt(sum_p sqrt(||g_p||)), the form in the IR-Tuning authors' public code
  (arXiv 2510.00268), kept so that their runs can be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..status import EXCLUDED, MEASURED, NEVER_MEASURED

SCORE_FORMS = ("l2", "rms", "sqrt_sum")


class LayerScores:
    """The scores of L layers and what is known about each.

    Args:
        form: one of ``SCORE_FORMS``.
        groups: the layer of each parameter; L for outer parameters.
        numels: the trainable elements of each layer.

    Attributes:
        tensors: the following by name, ``values`` as ``scores``.
        values: float32 [L], the last finite score of each layer; NaN where there is none.
        status: uint8 [L], see :mod:`layerselect.status`.
        nonfinite: int64 [L], in how many steps the layer's gradient was not finite.
        total_norm: float64 [], the norm of all gradients of the last step.
        group_sums: float64 [L + 1], the sum of squares of each group's gradients in the last step, the outer ones last.
        parameter_sums: float64 [P], the same by parameter, each of the last step in which its layer took a gradient.
    """

    def __init__(self, form: str, groups: Sequence[int], numels: Sequence[int], device: torch.device) -> None:
        length = len(numels)
        self._form = form
        self._groups = torch.tensor(list(groups), dtype=torch.int64, device=device)
        self._numels = torch.tensor(list(numels), dtype=torch.float64, device=device)
        self._raw = torch.zeros(length, dtype=torch.float32, device=device)
        self._present = torch.zeros(length + 1, dtype=torch.bool, device=device)
        self._sqnorms = torch.zeros(len(self._groups), dtype=torch.float64, device=device)
        self.parameter_sums = torch.zeros_like(self._sqnorms)
        self.group_sums = torch.zeros(length + 1, dtype=torch.float64, device=device)
        self.values = torch.full((length,), float("nan"), dtype=torch.float32, device=device)
        self.status = torch.full((length,), NEVER_MEASURED, dtype=torch.uint8, device=device)
        self.nonfinite = torch.zeros(length, dtype=torch.int64, device=device)
        self.total_norm = torch.zeros((), dtype=torch.float64, device=device)
        self.tensors = {
            "scores": self.values,
            "status": self.status,
            "nonfinite": self.nonfinite,
            "total_norm": self.total_norm,
            "group_sums": self.group_sums,
        }

    def measure(
        self,
        sqnorms: Tensor,
        measured_groups: Sequence[int],
        inv_scale: Tensor | None = None,
        late: Sequence[int] = (),
        late_inv_scale: Tensor | None = None,
    ) -> None:
        """Takes in the norms of one step: ``total_norm`` and ``group_sums``. All else waits for :meth:`update`.

        Args:
            sqnorms: float64 [P], the sum of squares of each parameter's gradient.
            measured_groups: the groups in which some parameter has a gradient. The others count as zero.
            inv_scale: float32 [], what the gradients are to be multiplied by.
            late: parameters whose sums are of a later moment than the others'.
            late_inv_scale: float32 [], what their gradients are to be multiplied by.
        """
        self._present.fill_(False)
        self._present[list(measured_groups)] = True
        sqnorms = sqnorms.to(self.group_sums.device)
        if inv_scale is not None or late_inv_scale is not None:
            one = torch.ones((), dtype=torch.float64, device=sqnorms.device)
            factors = (one if inv_scale is None else inv_scale.double().square()).repeat(len(sqnorms))
            if late:
                factors[list(late)] = one if late_inv_scale is None else late_inv_scale.double().square()
            sqnorms = sqnorms * factors
        self._sqnorms = sqnorms
        sums = self._sum_by_group(sqnorms).where(self._present, 0.0)
        self.group_sums.copy_(sums)
        torch.sqrt(sums.sum(), out=self.total_norm)
        self._raw.copy_(self._form_scores(sqnorms, sums, self._present))

    def update(self, active: Tensor) -> Tensor:
        """Turns what was measured into scores.

        Args:
            active: bool [L], the layers that were to take gradients; the others keep their scores.

        Returns:
            bool [L], the layers that took gradients. An active layer without any keeps its score. Where it has none it
            cannot train in this step, and takes no part in this selection.
        """
        raw = self._raw
        took = active & self._present[:-1]
        here = torch.cat([took, self._present[-1:]])
        torch.where(here[self._groups], self._sqnorms, self.parameter_sums, out=self.parameter_sums)
        finite = raw.isfinite()
        self.values.copy_(raw.where(took & finite, self.values))
        nonfinite = took & ~finite
        self.nonfinite += nonfinite
        known = self.values.isfinite()
        excluded = nonfinite | (active & ~took & ~known)
        self.status.fill_(NEVER_MEASURED).masked_fill_(known, MEASURED).masked_fill_(excluded, EXCLUDED)
        return took

    def _form_scores(self, sqnorms: Tensor, sums: Tensor, present: Tensor) -> Tensor:
        if self._form == "rms":
            return (sums[:-1] / self._numels).sqrt()
        if self._form == "sqrt_sum":
            return self._sum_by_group(sqnorms.pow(0.25)).where(present, 0.0)[:-1].sqrt()
        return sums[:-1].sqrt()

    def _sum_by_group(self, values: Tensor) -> Tensor:
        return torch.zeros_like(self.group_sums).index_add_(0, self._groups, values)
