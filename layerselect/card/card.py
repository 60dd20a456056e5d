"""The Layer Card: what was measured of every layer of a model on a task, saved as JSON."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import LayerSelectError
from ..utils.saved_documents import DocumentKind
from ..utils.saved_schema import Fields, Items, Kind, Mapped, Maybe, Mismatch, Number, Text, check, fields_of
from .figures import CostFigures, FirstGain, LayerFigures, MapFigures
from .ranks import ranks_of

if TYPE_CHECKING:
    from ..costs.counted import LayerCosts
    from ..layers.ranks import Ranks
    from ..placement import Placement
    from .place import Placer

logger = logging.getLogger(__name__)

#: The first version has no ``adamw`` and no ``sgd``.
_KIND = DocumentKind(
    schema="layerselect.layer-card",
    versions=(1, 2),
    file="card.json",
    name="card",
    title="Layer Card",
    command="layerselect card",
    again="measure it again",
)

#: Below this rank correlation between resamples the order of the layers is not to be relied on.
STABLE = 0.8

#: What placements of a card go by whose figures are noise.
DEPTH = "; until then placements go by depth and cost, upper layers first"
#: Of a figure: the squares of what is larger leave the range of floats when they are added up.
_MOST = 1e60
#: Of a coupling, which is 1 but for rounding.
_ALIKE = 1.0 + 1e-6
_ROUNDING = 1e-6
#: As many as the selection rules take.
_MOST_LAYERS = 1024


@dataclass(frozen=True)
class LayerCard:
    """A Layer Card: what was measured of each layer of a model on a sample of a task.

    Attributes:
        model, data: what was measured, with fingerprints.
        settings: how.
        layers: the figures, in forward order.
        coupling: [L][L], see :mod:`layerselect.card.coupling`; ``None`` where it was not measured.
        held_out: whether ``fresh`` and the coupling come from batches that no change was fitted to.
        stability: rank correlation of the layers' order with that on batches drawn anew; ``None`` where there were too
            few.
        step_costs: the parts of a training step's cost with adapters (:class:`~layerselect.costs.counted.LayerCosts` as
            a dict).
        versions: of the packages.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    settings: dict[str, Any]
    layers: list[LayerFigures]
    coupling: list[list[float]] | None
    held_out: bool
    stability: float | None
    step_costs: dict[str, Any]
    versions: dict[str, str]

    @property
    def names(self) -> list[str]:
        """Qualified names of the layers, in forward order."""
        return [layer.name for layer in self.layers]

    @property
    def fresh(self) -> np.ndarray:
        """float64 [L]: what layers are ranked by."""
        return np.array([layer.fresh for layer in self.layers])

    @property
    def measured(self) -> bool:
        """Whether training each layer alone was tried (:attr:`LayerFigures.performance`)."""
        return all(layer.performance is not None for layer in self.layers)

    @property
    def strengths(self) -> np.ndarray:
        """float64 [L], what placements and ranks go by: :attr:`fresh`; where each layer was trained alone, the fresh
        resnorm that would have predicted what that gave. Half of its square is the loss that a layer removes.
        """
        if not self.measured:
            return self.fresh
        return np.sqrt([2.0 * max(0.0, layer.performance or 0.0) for layer in self.layers])

    @property
    def costs(self) -> LayerCosts:
        from ..costs.counted import LayerCosts

        return LayerCosts.from_dict(self.step_costs)

    def placer(self) -> Placer:
        """The placements that this card can tell apart, with their gains and costs. Where its figures are noise
        (:meth:`noise`) all layers are alike to it, so the cheapest are best, which are the upper ones.
        """
        from .place import Placer

        alike = np.eye(len(self.layers))
        if self.noise():
            return Placer(np.ones(len(self.layers)), alike, self.costs)
        pairs = alike if self.coupling is None else np.array(self.coupling)
        return Placer(self.strengths, pairs, self.costs)

    def propose(
        self,
        k: int | None = None,
        *,
        budget: float | None = None,
        objective: str = "performance",
        rank_budget: float | None = None,
    ) -> Placement:
        """Where to put adapters, with the gain and the cost of that (see
        :meth:`layerselect.card.place.Placer.place`). A warning says when it is unsure (:meth:`doubt`). Where the
        figures are noise (:meth:`noise`) it goes by depth and cost, and its gain is not known.

        Args:
            k, budget, objective: as for :meth:`place`.
            rank_budget: the placement gets ranks, too, within this budget of parameters (:meth:`rank_pattern`).
        """
        noise = self.noise()
        self._warn("this placement is", DEPTH)
        found = self.placer().place(k, budget=budget, objective=objective)
        ranks: dict[str, int] = {}
        if rank_budget is not None:
            known = [1.0] * len(self.layers) if noise else self.strengths.tolist()
            strengths = [value if layer in found.layers else 0.0 for layer, value in enumerate(known)]
            ranks = ranks_of(self.layers, strengths, rank_budget, most=None).by_name()
        asked = {"k": k, "budget": budget, "objective": objective}
        words = ", ".join(f"{name}={value!r}" for name, value in asked.items() if value is not None)
        chosen_by = (
            f"depth and cost (an unsure Layer Card, place({words}))" if noise else f"a Layer Card, place({words})"
        )
        gain = math.nan if noise else found.gain
        return replace(found, names=self.names, ranks=ranks, gain=gain, chosen_by=chosen_by, doubt=self.doubt())

    def rank_pattern(self, budget: float, *, most: int | None = None) -> Ranks:
        """Ranks of LoRA, in proportion to what the card expects of each map: the strength of its layer
        (:attr:`strengths`, 0 where that is negative), times the share of the map in the layer's resnorm.

        Args:
            budget: parameters of all adapters together; or, up to 1, a fraction of those that LoRA of rank 16 on the
                same maps has. What it leaves is less than one rank of the smallest map.
            most: of one map.

        Returns:
            ``rank_pattern``, ``alpha_pattern`` and ``target_modules`` for ``peft.LoraConfig``;
            :meth:`~layerselect.layers.ranks.Ranks.lora_config` makes one.

        Raises:
            LayerSelectError: no layer is expected to give anything, or the budget is too small for one rank.
        """
        self._warn("these ranks are")
        return ranks_of(self.layers, self.strengths.tolist(), budget, most=most)

    def doubt(self) -> str:
        """Why a choice by these figures is unsure; empty where it is not. It is where they are noise (:meth:`noise`),
        or order the layers otherwise on batches drawn anew.
        """
        if noise := self.noise():
            return noise
        if self.measured or self.stability is None or self.stability >= STABLE:
            return ""
        return (
            f"the order of the layers is not stable: on batches drawn anew its rank correlation is "
            f"{self.stability:.2f}, and at least {STABLE:g} would do; measure more examples"
        )

    def noise(self) -> str:
        """Why the figures are noise; empty where they are not. They are where on the batches that nothing was fitted
        to, no layer's interval is above zero; or, where each layer was trained alone, none lowered the loss.
        """
        if self.measured:
            helps = any((layer.performance or 0.0) > 0 for layer in self.layers)
            return "" if helps else "no layer that was trained alone lowered the validation loss; train longer"
        lows = [layer.low for layer in self.layers if layer.low is not None]
        if self.held_out and lows and not any(low > 0 for low in lows):
            return (
                "on batches that nothing was fitted to, no layer did better than chance, so what was fitted is noise; "
                "measure more examples"
            )
        return ""

    def _warn(self, what: str, then: str = "") -> None:
        if doubt := self.doubt():
            logger.warning("%s unsure: %s%s", what, doubt, then if self.noise() else "")

    def place(self, k: int | None = None, *, budget: float | None = None, objective: str = "performance") -> list[int]:
        """The layers to adapt, ascending, for ``peft.LoraConfig(layers_to_transform=...)``.

        They are indices into :attr:`names`, which are those that ``peft`` means where the model has one stack.

        Args:
            k: at most so many layers.
            budget: at most this fraction of the step that trains all layers.
            objective: ``performance``, ``cost`` or ``balanced``; see :meth:`layerselect.card.place.Placer.place`.

        Raises:
            LayerSelectError: no layer fits, or an argument has no meaning.
        """
        return self.propose(k, budget=budget, objective=objective).layers

    def to_dict(self) -> dict[str, Any]:
        """The card as JSON values."""
        return _KIND.stamped(asdict(self))

    def save(self, path: str | Path) -> Path:
        """Writes the card, whole or not at all; into ``card.json`` where ``path`` is a folder."""
        return _KIND.write(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> LayerCard:
        """Reads a card from a file, or from ``card.json`` in a folder.

        Raises:
            LayerSelectError: it is not there, is no card, is of a newer version, or is damaged.
        """
        return cls.from_dict(*_KIND.read(path))

    @classmethod
    def from_dict(cls, values: Any, where: str = "the card") -> LayerCard:
        """Checks JSON values and makes a card of them.

        Raises:
            LayerSelectError: they are not those of a card.
        """
        own = _KIND.unstamped(values, where)
        try:
            check(Fields({"layers": Items(Mapped(), least=1, most=_MOST_LAYERS)}), own)
            if values["version"] == 1:
                own["layers"] = [{"adamw": None, "sgd": None, **layer} for layer in own["layers"]]
            check(_card(len(own["layers"])), own)
            card = cls(**{**own, "layers": [_layer(layer) for layer in own["layers"]]})
            if card.coupling is not None and not np.allclose(card.coupling, np.transpose(card.coupling)):
                raise Mismatch("coupling", "is not symmetric")
            if card.coupling is not None and np.linalg.eigvalsh(card.coupling).min() < -_ROUNDING * len(card.layers):
                raise Mismatch("coupling", "is no matrix of cosines: its eigenvalues must not be negative")
            if card.costs.num_layers != len(card.layers):
                raise Mismatch(
                    "step_costs", f"has costs of {card.costs.num_layers} layers and must have {len(card.layers)}"
                )
        except (Mismatch, LayerSelectError) as error:
            raise LayerSelectError(f"{where!r} is damaged ({error}): measure it again") from error
        return card


def _layer(values: Mapping[str, Any]) -> LayerFigures:
    maps = [MapFigures(**linear) for linear in values["maps"]]
    first = {name: None if values[name] is None else FirstGain(**values[name]) for name in ("adamw", "sgd")}
    return LayerFigures(**{**values, **first, "maps": maps, "cost": CostFigures(**values["cost"])})


def _card(layers: int) -> Kind:
    """What a card of so many layers holds. A coupling is a cosine."""
    linear, cost = fields_of(MapFigures, most=_MOST), fields_of(CostFigures, most=_MOST)
    first = Maybe(fields_of(FirstGain, most=_MOST))
    layer = fields_of(LayerFigures, most=_MOST, maps=Items(linear), cost=cost, adamw=first, sgd=first)
    row = Items(Number(-_ALIKE, _ALIKE), length=layers)
    return fields_of(
        LayerCard,
        most=_MOST,
        model=Fields({"fingerprint": Text()}, optional={"class": Text(), "source": Text()}),
        data=Fields({"fingerprint": Text()}, optional={"corpus": Text(), "cost_batch": Mapped()}),
        settings=Mapped(),
        layers=Items(layer, length=layers),
        coupling=Maybe(Items(row, length=layers)),
        step_costs=Mapped(),
        versions=Mapped(Text()),
    )


def finite(value: float) -> float | None:
    """A number, or ``None`` where JSON has none for it."""
    return float(value) if math.isfinite(value) else None
