"""Which parameters the user lets train: what others did to ``requires_grad`` between two steps."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterable, Sequence

from torch import nn

from ..distributed.engines import put_shards_back
from ..distributed.foreign_engines import explain_missing
from ..distributed.sharding import is_sharded
from ..errors import LayerSelectError
from ..layers.find import LayeredParameters, LayerSpec, clean_name, split_parameters
from ..layers.requires_grad import switch_off

logger = logging.getLogger(__name__)

_requires_grad = operator.attrgetter("requires_grad")


class UserFlags:
    """Compares the flags of a model's parameters with those of the last look.

    * A followed parameter that was switched off is *frozen by the user*. It is followed on, without a gradient.
    * One of these that was switched on again trains again; unless that was part of a switch of the whole layer, as
      ``peft`` does it when it has disabled an adapter or used another one: then it is switched off again.
    * A parameter that begins to train is followed, if an attached optimizer holds it. If none does, it stays frozen.

    Args:
        model: the model.
        found: its layers' parameters and the outer ones, all of which train.
        spec: how the layers were found.
    """

    def __init__(self, model: nn.Module, found: LayeredParameters, spec: LayerSpec) -> None:
        self._model, self._found, self._spec = model, found, spec
        self._frozen: set[int] = set()
        self._expected: list[bool]
        self._told = False
        self._take_stock()

    def frozen_layers(self) -> list[bool]:
        """The layers of which the user has frozen every parameter."""
        if not self._frozen:
            return [False] * len(self._found.layers)
        return [all(id(p) in self._frozen for _, p in layer) for layer in self._found.layers]

    def look(
        self,
        switched: Sequence[bool],
        standing: Sequence[bool],
        held: Callable[[], set[int] | None],
        *,
        thoroughly: bool,
    ) -> LayeredParameters | None:
        """What is to be followed from now on, if that has changed; else ``None``.

        Args:
            switched: for each layer, whether it was seen switched off as a whole since the last look.
            standing: for each layer, whether its flags are off by our own doing.
            held: the ids of the parameters that attached optimizers hold; ``None`` where no optimizer is attached.
            thoroughly: whether to look for parameters that are new to the model.

        Raises:
            LayerSelectError: parameters begin to train in layers that had none; or none of those that are followed
                trains, and others do that no attached optimizer holds.
        """
        changed = False
        # In most steps nothing has changed, which one comparison tells.
        as_expected = list(map(_requires_grad, self._followed)) == self._expected
        for index, layer in () if as_expected else enumerate((*self._found.layers, self._found.outer)):
            is_layer = index < len(self._found.layers)
            if is_layer and standing[index]:
                continue
            for _, parameter in layer:
                frozen = id(parameter) in self._frozen
                if not parameter.requires_grad and not frozen:
                    self._frozen.add(id(parameter))
                    changed = True
                elif parameter.requires_grad and frozen:
                    if is_layer and switched[index]:
                        _freeze([parameter])
                    else:
                        self._frozen.discard(id(parameter))
        if not as_expected:
            self._expected = [id(p) not in self._frozen for p in self._followed]
        if changed or thoroughly:
            self._others = self._not_followed()
        begun = [(name, p) for name, p in self._others if p.requires_grad]
        return self._followed_with(begun, held()) if begun else None

    def _take_stock(self) -> None:
        self._followed = [p for layer in (*self._found.layers, self._found.outer) for _, p in layer]
        self._expected = [id(p) not in self._frozen for p in self._followed]
        self._others = self._not_followed()

    def _parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        if any(is_sharded(p) for layer in self._found.layers for _, p in layer):
            put_shards_back(self._model)  # what was gathered for a pass is nobody new
        return self._model.named_parameters()

    def _not_followed(self) -> list[tuple[str, nn.Parameter]]:
        followed = set(map(id, self._followed))
        return [
            (clean_name(name), p) for name, p in self._parameters() if id(p) not in followed and p.is_floating_point()
        ]

    def _followed_with(self, begun: list[tuple[str, nn.Parameter]], held: set[int] | None) -> LayeredParameters | None:
        loose = [] if held is None else [(name, p) for name, p in begun if id(p) not in held]
        if (loose or held is None) and not self._some_layer_trains():
            layers = [pair for layer in self._found.layers for pair in layer]
            raise LayerSelectError(explain_missing(self._model, layers, taken=False))
        if loose:
            _freeze(p for _, p in loose)
            if not self._told:
                self._told = True
                logger.warning(
                    "%d parameters were switched on (first %r) that no attached optimizer holds: they are switched "
                    "off again; to train them, hand them to the optimizer (add_param_group) before the next "
                    "selector.step()",
                    len(loose),
                    loose[0][0],
                )
        if len(loose) == len(begun):
            return None
        now = split_parameters(self._model, self._spec)
        known = dict(zip(self._found.names, self._found.layers, strict=True))
        unknown = [name for name in now.names if name not in known]
        if unknown:
            raise LayerSelectError(
                f"parameters began to train in {len(unknown)} layers that had none when the selector was built, first "
                f"{unknown[0]!r}: close the selector, build a new one and attach the optimizer to it"
            )
        fresh = dict(zip(now.names, now.layers, strict=True))
        logger.info("%d more parameters train, first %r: the selector follows them", len(begun), begun[0][0])
        return LayeredParameters(
            names=self._found.names,
            modules=self._found.modules,
            layers=[_joined(layer, fresh.get(name, [])) for name, layer in known.items()],
            outer=_joined(self._found.outer, now.outer),
        )

    def _some_layer_trains(self) -> bool:
        """Whether a followed parameter of a layer is still in the model and requires a gradient."""
        there = {id(p) for _, p in self._parameters()}
        return any(p.requires_grad and id(p) in there for layer in self._found.layers for _, p in layer)

    def follow(self, found: LayeredParameters) -> None:
        """Goes on with ``found``."""
        self._found = found
        self._take_stock()


def _joined(old: list[tuple[str, nn.Parameter]], new: list[tuple[str, nn.Parameter]]) -> list[tuple[str, nn.Parameter]]:
    known = {id(p) for _, p in old}
    return [*old, *((name, p) for name, p in new if id(p) not in known)]


def _freeze(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in switch_off(parameters):
        parameter.grad = None
