"""For rules that let another rule decide."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import LayerSelectError
from ..status import EXCLUDED, MEASURED, NEVER_MEASURED
from .base import Rule, Selection
from .registry import make_rule


class Wrapping(Rule):
    """A rule that lets another rule, its ``base``, decide.

    The field ``base`` is declared by each class, with a default of its own; ``__post_init__`` makes a rule of it.
    """

    base: str | Rule

    @property
    def decider(self) -> Rule:
        """``base``, which is a rule and no longer its name once this one is built."""
        assert isinstance(self.base, Rule)
        return self.base

    def bind(self, layer_names: list[str], backend: str = "auto") -> None:
        super().bind(layer_names, backend)
        self.decider.bind(layer_names, backend)

    def close(self) -> None:
        self.decider.close()


def base_rule(owner: str, base: str | Rule) -> Rule:
    """The rule that decides for rule ``owner`` from numbers that are not its own scores.

    Raises:
        LayerSelectError: it does not decide by scores.
    """
    rule = make_rule(base)
    if not rule.uses_scores:
        raise LayerSelectError(
            f"rule {owner!r}: base={rule.name!r} looks at no scores; use one that does, such as 'variance' or "
            "'topk:k=4'"
        )
    return rule


def name_pattern(owner: str, match: str | None) -> re.Pattern[str]:
    """What finds the weights that rule ``owner`` looks at, by their names; ``None`` finds all.

    Raises:
        LayerSelectError: ``match`` is no regular expression.
    """
    try:
        return re.compile(match or "")
    except re.error as error:
        raise LayerSelectError(f"rule {owner!r}: match={match!r} is no regular expression ({error})") from error


def choose_by(base: Rule, values: Sequence[float], status: Tensor) -> Selection:
    """What ``base`` decides if ``values`` are the scores, less the layers whose gradient is not finite.

    Args:
        values: one for each layer; NaN is a layer that was never measured.
        status: uint8 [L], of the gradients; the selection is on its device.
    """
    scores = torch.tensor(values, dtype=torch.float32)
    known = torch.full((len(values),), MEASURED, dtype=torch.uint8).masked_fill(scores.isnan(), NEVER_MEASURED)
    selection = base.select(scores, known)
    return Selection(
        selection.mask.to(status.device, non_blocking=True) & (status != EXCLUDED),
        selection.threshold.to(status.device, non_blocking=True),
    )
