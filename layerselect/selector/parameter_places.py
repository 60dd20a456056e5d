"""Notices when a model's parameters are replaced by other objects: hooks on the old ones never fire again."""

from __future__ import annotations

import operator

from torch import nn

from ..distributed.engines import put_shards_back
from ..distributed.sharding import is_gathered
from ..errors import LayerSelectError
from ..layers.find import LayeredParameters


class ParameterPlaces:
    """One place in the model for each parameter of some layers: the module and the name that hold it.

    Args:
        model: the model.
        found: its layers' parameters and the outer ones.
    """

    def __init__(self, model: nn.Module, found: LayeredParameters) -> None:
        self._model = model
        self._found = found
        wanted = {id(p) for layer in (*found.layers, found.outer) for _, p in layer}
        places: dict[int, tuple[dict[str, nn.Parameter | None], str, nn.Parameter]] = {}
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and id(parameter) in wanted:
                    places[id(parameter)] = (module._parameters, name, parameter)
        self._places = list(places.values())
        self._owners, self._names, self._parameters = (
            map(list, zip(*self._places, strict=True)) if places else ([], [], [])
        )

    def look(self) -> LayeredParameters | None:
        """What is in their places now, if anything was replaced, as ``load_state_dict(assign=True)`` does; else
        ``None``.

        Raises:
            LayerSelectError: a parameter is gone.
        """
        if all(map(operator.is_, map(dict.get, self._owners, self._names), self._parameters)):
            return None
        if all(owner.get(name) is p or is_gathered(owner.get(name), p) for owner, name, p in self._places):
            return None
        put_shards_back(self._model)
        now: dict[int, nn.Parameter] = {}
        for owner, name, old in self._places:
            new = owner.get(name)
            if new is None:
                raise LayerSelectError(
                    "parameters were removed from the model: build a new selector for the changed model"
                )
            now[id(old)] = new
        return LayeredParameters(
            names=self._found.names,
            modules=self._found.modules,
            layers=[[(name, now[id(old)]) for name, old in layer] for layer in self._found.layers],
            outer=[(name, now[id(old)]) for name, old in self._found.outer],
        )
