"""The candidates that ``--candidates`` names: sets of layers, some of which only a first short training can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...card import LayerCard
from ...errors import LayerSelectError
from ...placement import Placement
from ...placement.candidates import ALL, HEAD, MEASURED, SHAPES, layers_of, ranked_layers, usual_names
from ...placement.rule import mask_by_names
from ..compare.methods import split_list
from .settings import USUAL


@dataclass(frozen=True)
class Scouted:
    """What the first short training told of each layer.

    Attributes:
        selected: in how many steps IR-Tuning's rule selected it.
        norms: the mean of its gradient norms.
    """

    selected: Sequence[float]
    norms: Sequence[float]


@dataclass(frozen=True)
class Asked:
    """The candidates that were asked for.

    Attributes:
        order: their names, as they were named.
        layers: of each whose layers are known, by its name.
        measured: the names of those that a first training has to tell, with their kind and how many layers each has.
    """

    order: Sequence[str]
    layers: Mapping[str, tuple[int, ...]]
    measured: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    def planned(self) -> dict[str, tuple[int, ...]]:
        """The layers of all, in their order, before a first training: as many of the lowest layers, which cost the
        most, stand for those that it has to tell.
        """
        dearest = {name: tuple(range(count)) for name, (_, count) in self.measured.items()}
        found = {**self.layers, **dearest}
        return {name: found[name] for name in self.order if name in found}

    def known(self, scouted: Scouted | None) -> dict[str, tuple[int, ...]]:
        """The layers of all, in their order; without what a first training would tell if there was none."""
        found = dict(self.layers)
        if scouted is not None:
            for name, (kind, count) in self.measured.items():
                values = scouted.selected if kind == "ir" else scouted.norms
                # The rule selects many layers equally often; the larger gradients come first then.
                if kind == "ir":
                    most = max(scouted.norms) or 1.0
                    values = [often + norm / (2 * most) for often, norm in zip(values, scouted.norms, strict=True)]
                found[name] = ranked_layers(values, count)
        return {name: found[name] for name in self.order if name in found}


def asked_candidates(text: str, layer_names: Sequence[str], *, head: bool) -> Asked:
    """Reads ``--candidates``.

    Args:
        layer_names: of the model.
        head: whether something outside the layers trains, so that training no layer is something.

    Raises:
        LayerSelectError: a name that is none, or one that does not fit the model.
    """
    count = len(layer_names)
    names = usual_names(count) if text.strip() == USUAL else [ALL, *split_list(text)]
    layers: dict[str, tuple[int, ...]] = {}
    measured: dict[str, tuple[str, int]] = {}
    for name in names:
        kind, _, rest = name.partition(":")
        if name == HEAD and not head:
            if text.strip() != USUAL:
                raise LayerSelectError(
                    "--candidates head: nothing trains outside the layers of this model, so training no layer trains "
                    "nothing; leave it out"
                )
        elif kind in MEASURED:
            layers_of("upper", _number(name, rest), count)
            measured[name] = (kind, _number(name, rest))
        else:
            layers[name] = _layers(name, kind, rest, layer_names)
    return Asked(names, layers, measured)


def _layers(name: str, kind: str, rest: str, layer_names: Sequence[str]) -> tuple[int, ...]:
    count = len(layer_names)
    if name in (ALL, HEAD):
        return tuple(range(count)) if name == ALL else ()
    if kind in SHAPES:
        return layers_of(kind, _number(name, rest), count)
    if kind == "layers":
        found = sorted({_number(name, part, least=0) for part in rest.split("+")})
        if found[-1] >= count:
            raise LayerSelectError(f"--candidates {name}: the model has the layers 0 to {count - 1}")
        return tuple(found)
    if kind == "placement" and rest:
        return _of_placement(Placement.load(rest.strip('"')), layer_names)
    if kind == "card" and ":" in rest:
        folder, _, number = rest.rpartition(":")
        return _of_placement(LayerCard.load(Path(folder)).propose(_number(name, number)), layer_names)
    raise LayerSelectError(
        f"--candidates: {name!r} is none of all, head, {', '.join(f'{shape}:K' for shape in SHAPES)}, ir:K, norms:K, "
        "layers:0+3+5, card:FOLDER:K and placement:FILE"
    )


def _of_placement(placement: Placement, layer_names: Sequence[str]) -> tuple[int, ...]:
    mask = mask_by_names(list(layer_names), placement.names, placement.chosen, owner="--candidates: the placement")
    return tuple(layer for layer, chosen in enumerate(mask.tolist()) if chosen)


def _number(name: str, text: str, least: int = 1) -> int:
    if not (text.isascii() and text.isdigit() and least <= int(text) < 1_000_000):
        raise LayerSelectError(f"--candidates {name}: {text!r} is no number of at least {least}")
    return int(text)
