"""What a training step costs, layer by layer, and so what a selection saves.

What a step costs is set by the lowest layer that trains, far more than by how many do: the backward pass must come down
to it through everything above. With f_l the forward pass of layer l, i_l the gradient of its input, w_l the gradients
of its own parameters and r everything outside the layers,

    cost(S) = (r + sum_l f_l + sum_{l >= min(S)} i_l + sum_{l in S} w_l) / (the same with all layers in S)

The lowest layer itself is charged its whole i_l, though a part of it is not needed: a selection costs at most what is
said here, as far as f, i, w and r are right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LayerSelectError
from ..layers.view import RECOMPUTES, ModelView
from ..utils.linear_kind import elements
from ..utils.saved_words import shown

#: Sums of what is larger could leave the range of floats.
_MOST = 1e100


@dataclass(frozen=True)
class LayerCosts:
    """The parts of a step's cost, in any one unit (seconds, multiply-adds).

    Args:
        forward: [L], the forward pass of each layer.
        input_gradient: [L], what the backward pass takes through each layer, its own parameters left out. What lies
            between a layer and the one below it, blocks without trainable parameters for instance, belongs to the upper
            one.
        weight_gradient: [L], the gradients of each layer's own parameters.
        rest: everything outside the layers, forward and backward.
        crossed_from: the layers from here up are crossed by every backward pass, since something that always trains
            stands before them (trainable embeddings: 0); ``None`` if there is no such thing.

    Raises:
        LayerSelectError: lengths that differ, a number that is negative or not finite, a step that costs nothing.
    """

    forward: tuple[float, ...]
    input_gradient: tuple[float, ...]
    weight_gradient: tuple[float, ...]
    rest: float = 0.0
    crossed_from: int | None = None

    def __post_init__(self) -> None:
        for name in ("forward", "input_gradient", "weight_gradient"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
            if len(getattr(self, name)) != len(self.forward):
                raise LayerSelectError(
                    f"costs: {name} has {len(getattr(self, name))} numbers and forward {len(self.forward)}; give one "
                    "for each layer"
                )
        object.__setattr__(self, "rest", _numbers("rest", [self.rest])[0])
        if not self.forward or not math.fsum(self.forward) + self.rest > 0.0:
            raise LayerSelectError("costs: forward and rest are 0; a step that trains no layer must cost something")
        where = self.crossed_from
        if where is not None and (not isinstance(where, int) or not 0 <= where < len(self.forward)):
            raise LayerSelectError(f"costs: crossed_from={where!r} is none of the {len(self.forward)} layers")

    @classmethod
    def from_steps(cls, steps: Sequence[float]) -> LayerCosts:
        """From measured steps: ``steps[d]`` is what a step costs that trains the layers from d up, in any unit.

        A layer left out above d is charged as if it trained.

        Raises:
            LayerSelectError: not a list of positive numbers that never rise.
        """
        steps = _numbers("steps", steps)
        if not steps or any(below < above for below, above in pairwise(steps)):
            raise LayerSelectError(
                f"costs={list(steps)!r} must be what a step costs that trains the layers from each one up: positive "
                "numbers that never rise"
            )
        saved = [below - above for below, above in pairwise(steps)]
        nothing = [0.0] * len(steps)
        return cls(tuple(nothing), (*saved, 0.0), tuple(nothing), rest=steps[-1])

    @property
    def num_layers(self) -> int:
        return len(self.forward)

    @property
    def whole(self) -> float:
        """The step that trains all layers."""
        return math.fsum((*self.forward, *self.input_gradient, *self.weight_gradient, self.rest))

    def depth_cost(self, depth: int) -> float:
        """A step whose lowest trained layer is ``depth`` (L: no layer trains), the gradients of the layers' own
        parameters left out, as a fraction of the step that trains all layers.
        """
        lowest = depth if self.crossed_from is None else min(depth, self.crossed_from)
        return math.fsum((*self.forward, *self.input_gradient[lowest:], self.rest)) / self.whole

    def train_cost(self, layer: int) -> float:
        """The gradients of the layer's own parameters, as a fraction of the step that trains all layers."""
        return self.weight_gradient[layer] / self.whole

    def step_cost(self, mask: Tensor | Sequence[bool]) -> float:
        """The step that trains the layers marked in ``mask`` (bool [L]), as a fraction of the one that trains all."""
        trained = [layer for layer, flag in enumerate(mask) if flag]
        return self.depth_cost(min(trained, default=self.num_layers)) + math.fsum(map(self.train_cost, trained))

    def below_cost(self, cut: int) -> float:
        """The forward pass of the ``cut`` lowest layers, as a fraction of the step that trains all layers: what a step
        saves that reads their output.
        """
        return math.fsum(self.forward[:cut]) / self.whole

    def least(self) -> float:
        """The cheapest step that trains a layer, as a fraction of the one that trains all."""
        return min(self.depth_cost(layer) + self.train_cost(layer) for layer in range(self.num_layers))

    def table(self) -> Tensor:
        """float64 [2 L + 1] on the CPU: ``depth_cost`` of 0 .. L, then ``train_cost`` of each layer. What the rule
        reads.
        """
        depths = [self.depth_cost(depth) for depth in range(self.num_layers + 1)]
        trains = [self.train_cost(layer) for layer in range(self.num_layers)]
        return torch.tensor(depths + trains, dtype=torch.float64)

    def to_dict(self) -> dict[str, Any]:
        """The costs as JSON values; :meth:`from_dict` gives the same costs to the last bit."""
        return {
            f.name: list(value) if isinstance(value := getattr(self, f.name), tuple) else value for f in fields(self)
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LayerCosts:
        """Raises LayerSelectError where names are missing or unknown."""
        try:
            return cls(**values)
        except TypeError as error:
            raise LayerSelectError(f"costs={shown(values)} are not those of layers: {error}") from error


def count_costs(view: ModelView) -> LayerCosts:
    """Costs counted from the shapes of the weights, in multiply-adds per token: the same on every machine and run.

    A weight of n elements takes n multiply-adds for the forward pass, n for the gradient of its input and n for its
    own, if it trains. So f_l = i_l = the elements of the block's weights, frozen ones included, w_l = those of its
    trainable ones; i_l is twice that where ``transformers`` is set to checkpoint the block by now, which then runs
    forward a second time. Outside the layers a head behind them counts f + i, and w where it trains; what stands before
    them f, and w where it trains; tables that are looked up (``nn.Embedding``) nothing. Blocks without trainable
    parameters of their own count with what they stand between. Modules are taken to run in the order in which they are
    registered, which says what stands before the layers: trainable parameters there make every backward pass cross all
    of them.

    What it does not see: products without weights (attention scores) and everything element by element, which make a
    block weigh more against the head; small matrices (adapters), which run slower than their size says; experts that a
    token does not visit; what unpacking quantized weights takes; the optimizer's step; checkpointing that is switched
    on later or in code of the model's own. Most of it makes what freezing saves look smaller than it is, so that a
    budget is kept. Where it matters, measure (:mod:`layerselect.costs.measured`).
    """
    return _Counter(view).costs()


class _Counter:
    def __init__(self, view: ModelView) -> None:
        self._view = view
        self._layers = len(view.modules)
        self._layer_of = {id(module): layer for layer, module in enumerate(view.modules)}
        self._own = [{id(p) for _, p in parameters} for parameters in view.parameters]
        self._input_gradient = [0.0] * self._layers
        self._rest = 0.0
        self._crossed_from = self._layers

    def costs(self) -> LayerCosts:
        forward = [float(_weights(module)) for module in self._view.modules]
        weight_gradient = [float(sum(p.numel() for _, p in layer)) for layer in self._view.parameters]
        # A checkpointed block runs forward once more where the backward pass comes to it.
        recomputed = [1.0 + bool(getattr(module, RECOMPUTES, False)) for module in self._view.modules]
        self._input_gradient = [runs * weights for runs, weights in zip(recomputed, forward, strict=True)]
        for module, above in self._outside():
            self._add_outside(module, above)
        for layer, module in enumerate(self._view.modules):
            # Trainable, but shared by several layers: never selected away.
            shared = [p for p in module.parameters() if p.requires_grad and id(p) not in self._own[layer]]
            self._rest += sum(p.numel() for p in shared)
            self._crossed_from = min(self._crossed_from, layer if shared else self._layers)
        crossed_from = self._crossed_from if self._crossed_from < self._layers else None
        return LayerCosts(tuple(forward), tuple(self._input_gradient), tuple(weight_gradient), self._rest, crossed_from)

    def _outside(self) -> Iterator[tuple[nn.Module, int]]:
        """Each module outside the layers, with the number of layers registered before it."""
        before = 0
        inside: set[int] = set()
        for module in self._view.model.modules():
            if id(module) in self._layer_of:
                before += 1
                inside.update(map(id, module.modules()))
            elif id(module) not in inside:
                yield module, before

    def _add_outside(self, module: nn.Module, layers_below: int) -> None:
        trainable = [p for p in module._parameters.values() if p is not None and p.requires_grad]
        if trainable:
            self._crossed_from = min(self._crossed_from, layers_below)
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            return
        size = sum(elements(p) for p in module._parameters.values() if p is not None)
        self._rest += size + sum(p.numel() for p in trainable)
        if 0 < layers_below < self._layers:
            self._input_gradient[layers_below] += size
        elif layers_below == self._layers:
            self._rest += size


def _weights(module: nn.Module) -> int:
    """Elements of all weights in ``module``, tables left out."""
    seen: dict[int, int] = {}
    for child in module.modules():
        if not isinstance(child, (nn.Embedding, nn.EmbeddingBag)):
            seen.update({id(p): elements(p) for p in child._parameters.values() if p is not None})
    return sum(seen.values())


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        raise LayerSelectError(f"costs: {name} is {shown(values)} and must be a list of numbers") from None
    for number in numbers:
        if not 0.0 <= number <= _MOST:
            raise LayerSelectError(
                f"costs: {name} holds {number!r}; a cost is a finite number of at least 0 and at most {_MOST:g}"
            )
    return numbers
