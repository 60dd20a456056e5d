"""Placements that a pilot may try: sets of layers that have a name, and what a step that trains them costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import LayerSelectError
from ..rules.by_place import ByPlace
from ..rules.lower import Lower
from ..rules.middle import Middle
from ..rules.uniform import Uniform
from ..rules.upper import Upper
from ..utils.saved_words import shown

if TYPE_CHECKING:
    from ..costs.counted import LayerCosts

#: Every layer: what the others are measured against.
ALL = "all"
#: No layer: only what always trains, such as a new head.
HEAD = "head"

#: Where k layers of L may be, in the order in which a pilot that cannot try all drops them from the end.
_RULES: dict[str, type[ByPlace]] = {rule.name: rule for rule in (Upper, Uniform, Middle, Lower)}
SHAPES = tuple(_RULES)
#: What a first short training tells: the layers that IR-Tuning's rule selected most often, and those with the largest
#: gradient norms.
MEASURED = ("ir", "norms")


@dataclass(frozen=True)
class Candidate:
    """A set of layers that may be trained alone.

    Attributes:
        name: such as ``upper:4``.
        layers: their numbers, ascending; empty: none.
        cost: a step of the training that it is for, as a fraction of the step that trains all layers.
        trial: one short training and its evaluation, as a fraction of a full training of all layers.
    """

    name: str
    layers: tuple[int, ...]
    cost: float
    trial: float = 0.0


def layers_of(shape: str, count: int, num_layers: int) -> tuple[int, ...]:
    """The numbers of ``count`` layers, where the rule of the same name has them.

    Raises:
        LayerSelectError: there is no such shape, or the model has fewer layers.
    """
    if not 1 <= count <= num_layers:
        raise LayerSelectError(f"{shape}:{count} asks for {count} of {num_layers} layers: ask for 1 to {num_layers}")
    if shape not in _RULES:
        raise LayerSelectError(f"there is no shape {shown(shape)}; the shapes are: {', '.join(SHAPES)}")
    return tuple(_RULES[shape]().layers(count, num_layers))


def usual_names(num_layers: int) -> list[str]:
    """The names that a pilot tries unless it is told others, the most telling ones first: every layer, none, the upper
    halves of halves, and then the other places of as many layers.
    """
    counts = [2**power for power in range(num_layers.bit_length()) if 2 * 2**power <= num_layers][::-1]
    rest = [f"{shape}:{count}" for count in counts[:2] for shape in ("uniform", *MEASURED, "middle", "lower")]
    small = [f"{shape}:{count}" for count in counts[2:] for shape in SHAPES[1:]]
    return [ALL, HEAD, *(f"upper:{count}" for count in counts), *rest, *small]


def ranked_layers(values: Sequence[float], count: int) -> tuple[int, ...]:
    """The ``count`` layers with the largest values, upper ones first where these are equal."""
    order = sorted(range(len(values)), key=lambda layer: (-values[layer], -layer))
    return tuple(sorted(order[:count]))


def cheaper_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """By what a step costs, then by how many layers train."""
    return sorted(candidates, key=lambda each: (each.cost, len(each.layers), each.name))


def distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Without those whose layers an earlier one has."""
    found: dict[tuple[int, ...], Candidate] = {}
    for candidate in candidates:
        found.setdefault(candidate.layers, candidate)
    return list(found.values())


def keeps_to(cost: float, budget: float | None) -> bool:
    """Whether a step of this cost keeps to a budget: to ``None`` each does, and to any one of unknown cost (NaN)."""
    return budget is None or not cost > budget + 1e-9


def within(candidates: Sequence[Candidate], budget: float | None) -> list[Candidate]:
    """The reference, and those whose step keeps to a budget."""
    return [each for each in candidates if each.name == ALL or keeps_to(each.cost, budget)]


def cut_below(layers: Sequence[int], num_layers: int) -> int:
    """How many of the lowest layers need not run once their hidden states are cached, while ``layers`` train: those
    below the lowest of them; all but the uppermost where none trains.
    """
    return min(min(layers, default=num_layers), num_layers - 1)


def step_cost(costs: LayerCosts, layers: Sequence[int], *, reads: float = 0.0) -> float:
    """A step that trains ``layers``, as a fraction of the one that trains all, the mean over a training.

    Args:
        reads: in this share of the steps the layers below do not run, since their hidden states are cached
            (:func:`cut_below`).
    """
    whole = costs.step_cost([layer in layers for layer in range(costs.num_layers)])
    return whole - reads * costs.below_cost(cut_below(layers, costs.num_layers))
