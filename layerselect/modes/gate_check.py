"""Whether an optimizer keeps the promise that a gate relies on: what has no gradient stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed.sharding import held_here
from ..errors import LayerSelectError

_STEPS = 20  #: that are watched at most


class Watch:
    """Looks, in the first steps of an optimizer, at one gated parameter of each of its groups.

    An optimizer that decays weights without a gradient shows at once; one that takes a missing gradient for zero may
    show only where it has a momentum. So a group is watched until a parameter stayed put that the optimizer had stepped
    before, with whatever state it keeps; after that this costs nothing. ``torch.optim`` is not watched: the tests of
    this package prove each of its optimizers.

    Args:
        optimizer: the one to watch.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._left = 0 if type(optimizer).__module__.startswith("torch.optim.") else _STEPS
        self.watches = self._left > 0  #: whether there is still something to be proved
        self._stepped: set[int] = set()
        self._proved: set[int] = set()
        self._seen: list[tuple[int, nn.Parameter, dict[Any, Any]]] = []

    def before(self, gated: Sequence[nn.Parameter], free: Sequence[nn.Parameter]) -> None:
        """Remembers what the coming step must not change.

        Args:
            gated: parameters that will have no gradient.
            free: those that the step will move.
        """
        self._seen.clear()
        if not self._left:
            return
        ours = {id(p) for p in gated}
        for index, group in enumerate(self._optimizer.param_groups):
            mine = [p for p in group["params"] if id(p) in ours]
            if mine and index not in self._proved:
                # max() takes the first where none was stepped yet.
                witness = max(mine, key=lambda p: id(p) in self._stepped)
                self._seen.append((index, witness, self._everything_of(witness, clone=True)))
        self._stepped.update(id(p) for p in free)

    def check(self) -> None:
        """Compares after the step.

        Raises:
            LayerSelectError: something changed.
        """
        for index, parameter, before in self._seen:
            after = self._everything_of(parameter)
            # A state that was only begun does no harm: some optimizers begin all of them in their first step.
            grown = len(before) > 1 and before.keys() != after.keys()
            if grown or not all(key in after and _same(before[key], after[key]) for key in before):
                self._seen.clear()
                raise LayerSelectError(
                    f"{type(self._optimizer).__name__} changed a parameter of an unselected layer (shape "
                    f"{list(parameter.shape)}), or its state, though it had no gradient, so no layer can be left out "
                    "of its step: use an optimizer that skips parameters whose .grad is None"
                )
            if id(parameter) in self._stepped:
                self._proved.add(index)
        if self._seen:
            self._left -= 1
            self._seen.clear()
            self.watches = self._left > 0

    def _everything_of(self, parameter: nn.Parameter, clone: bool = False) -> dict[Any, Any]:
        values = {"weights": parameter.detach()}
        state = self._optimizer.state.get(parameter) or {}
        values.update({("state", key): value for key, value in state.items()})
        here = {key: held_here(value) if isinstance(value, Tensor) else value for key, value in values.items()}
        return {k: v.clone() if clone and isinstance(v, Tensor) else v for k, v in here.items()}


def _same(a: Any, b: Any) -> bool:
    """Whether nothing changed; what is neither a tensor nor a number cannot be told and passes."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(a.nan_to_num(), b.nan_to_num()))
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return a == b
    return isinstance(a, Tensor) == isinstance(b, Tensor)
