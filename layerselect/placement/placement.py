"""``Placement``: a set of layers that get adapters, saved as ``placement.json``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import LayerSelectError
from ..layers.ranks import Ranks, without_adapter
from ..utils.saved_documents import DocumentKind
from ..utils.saved_schema import Items, Mapped, Maybe, Mismatch, Number, Text, Whole, check, fields_of
from ..utils.saved_words import shown

if TYPE_CHECKING:
    from peft import LoraConfig

_KIND = DocumentKind(
    schema="layerselect.placement",
    versions=(1,),
    file="placement.json",
    name="placement",
    title="placement",
    command="layerselect pilot",
    again="make it again",
)

#: As many as the selection rules take.
_MOST_LAYERS = 1024
_MOST_RANK = 1_000_000
_WHOLE = 1.0 + 1e-9


@dataclass(frozen=True)
class Placement:
    """A set of layers that get adapters.

    Attributes:
        layers: their numbers among ``names``, ascending; empty: only what always trains, such as a new head.
        gain: the loss that they are predicted to remove, as a share of what all layers together remove; NaN where
            nobody said.
        cost: the step that trains them, as a fraction of the step that trains all; NaN where nobody said. A pilot says
            it with the layers below them cached, where they can be.
        names: qualified names of all layers of the model, in forward order; empty where they are not known, and then
            it cannot be saved.
        ranks: of LoRA by the name of each map that gets an adapter; empty: all maps of the layers get the same.
        chosen_by: who chose, in words.
        doubt: why the choice is unsure; empty where it is not.
    """

    layers: list[int]
    gain: float = math.nan
    cost: float = math.nan
    names: list[str] = field(default_factory=list)
    ranks: dict[str, int] = field(default_factory=dict)
    chosen_by: str = ""
    doubt: str = ""

    @property
    def chosen(self) -> list[str]:
        """The names of the chosen layers."""
        return [self.names[layer] for layer in self.layers]

    def lora_config(self, target_modules: Sequence[str] | None = None, **options: Any) -> LoraConfig:
        """A ``peft.LoraConfig`` that puts adapters there and nowhere else.

        Args:
            target_modules: the last names of the maps that get one, such as ``["q_proj", "v_proj"]``. Left out where
                the placement has ranks, which name their maps.
            options: its other arguments, such as ``r`` and ``task_type``.

        Raises:
            LayerSelectError: the maps are named twice or not at all, or the layers' names are not known.
        """
        from peft import LoraConfig

        if self.ranks:
            if target_modules is not None:
                raise LayerSelectError("target_modules= beside ranks, which name their maps: leave it out")
            found: LoraConfig = Ranks.of(self.ranks).lora_config(**options)
            return found
        if not self.layers:
            raise LayerSelectError("this placement has no layers, so it takes no adapter: train the head alone")
        known = isinstance(target_modules, Sequence) and not isinstance(target_modules, str)
        if target_modules is None or not known or not all(isinstance(n, str) and n for n in target_modules or [""]):
            raise LayerSelectError(
                f"target_modules={target_modules!r} is no list of names of maps, such as ['q_proj', 'v_proj'], and "
                "this placement has no ranks that would name some"
            )
        self._check_names()
        layers = "|".join(re.escape(without_adapter(name)) for name in self.chosen)
        maps = "|".join(re.escape(name) for name in target_modules)
        return LoraConfig(target_modules=rf"(?:.*\.)?(?:{layers})\.(?:.*\.)?(?:{maps})", **options)

    def to_dict(self) -> dict[str, Any]:
        """The placement as JSON values."""
        figures = {"gain": self.gain, "cost": self.cost}
        known = {name: None if math.isnan(value) else value for name, value in figures.items()}
        return _KIND.stamped({**asdict(self), **known})

    def save(self, path: str | Path) -> Path:
        """Writes the placement, whole or not at all; into ``placement.json`` where ``path`` is a folder.

        Raises:
            LayerSelectError: the layers' names are not known, or it cannot be written there.
        """
        self._check_names()
        path = _KIND.file_at(path)
        try:
            return _KIND.write(path, self.to_dict())
        except OSError as error:
            raise LayerSelectError(
                f"the placement cannot be written to {str(path)!r} ({error.strerror or error}): name another place"
            ) from error

    @classmethod
    def load(cls, path: str | Path) -> Placement:
        """Reads a placement from a file, or from ``placement.json`` in a folder.

        Raises:
            LayerSelectError: it is not there, is no placement, is of a newer version, or is damaged.
        """
        return cls.from_dict(*_KIND.read(path))

    @classmethod
    def from_dict(cls, values: Any, where: str = "the placement") -> Placement:
        """Checks JSON values and makes a placement of them.

        Raises:
            LayerSelectError: they are not those of a placement.
        """
        own = _KIND.unstamped(values, where)
        try:
            check(_VALUES, own)
            check(Items(Whole(high=len(own["names"]) - 1), unique=True), own["layers"], "layers")
            for name in own["ranks"]:
                if not any(_inside(name, own["names"][layer]) for layer in own["layers"]):
                    raise Mismatch("ranks", f"names the map {shown(name)}, which is in none of the layers")
        except Mismatch as error:
            raise LayerSelectError(f"{where!r} is damaged ({error}): make it again") from error
        known = {name: math.nan if own[name] is None else own[name] for name in ("gain", "cost")}
        return cls(**{**own, **known, "layers": sorted(own["layers"])})

    def _check_names(self) -> None:
        if not self.names:
            raise LayerSelectError(
                "a placement without the names of the layers fits no model: give names=, such as selector.layer_names"
            )


_VALUES = fields_of(
    Placement,
    layers=Items(Whole(high=_MOST_LAYERS), most=_MOST_LAYERS, unique=True),
    gain=Maybe(Number(0.0, _WHOLE)),
    cost=Maybe(Number(0.0, _WHOLE)),
    names=Items(Text(), least=1, most=_MOST_LAYERS, unique=True),
    ranks=Mapped(Whole(low=1, high=_MOST_RANK)),
)


def _inside(name: str, layer: str) -> bool:
    """Whether a map is in a layer, whatever ``peft`` put in front of the layer's name."""
    return name.startswith(without_adapter(layer) + ".")
