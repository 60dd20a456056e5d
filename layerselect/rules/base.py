"""What a rule is: layer scores in, a mask out."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._backend import load as load_backend
from ..errors import LayerSelectError
from ..layers.view import ModelView
from ..status import EXCLUDED, MEASURED
from ..utils.mirror import Mirror
from ..utils.saved_schema import Fields, Items, Kind, Mismatch, Whole, check
from ..utils.saved_tensors import Numbers
from ..utils.saved_words import shown


@dataclass(frozen=True)
class Selection:
    """What a rule decided.

    Attributes:
        mask: bool [L], on the device of the scores.
        threshold: float32 [], the score at which the rule cut; NaN where the rule cuts no scores.
        kept_share: float32 [], for rules that cut down another one's selection: the share of its scores that is kept.
        step_cost: float32 [], for rules that know costs: the step that trains these layers, as a fraction of the one
            that trains all.
    """

    mask: Tensor
    threshold: Tensor
    kept_share: Tensor | None = None
    step_cost: Tensor | None = None


class Rule(ABC):
    """Maps the scores of L layers to the layers to train.

    A rule is a dataclass: its ``init`` fields are its configuration and are shown in reports. A rule that
    draws at random owns a generator, seeded by its configuration, so that every rank of a distributed
    run draws the same layers and nobody else's draws are disturbed.
    """

    name: ClassVar[str]
    """The name on the command line and in checkpoints."""
    example: ClassVar[str] = ""
    """The name with its most important options, for the help text. Empty where the name alone is enough."""
    uses_scores: bool = True
    """Whether :meth:`select` reads the scores. Where it does not, the selection is made on the host before the backward
    pass, and frozen layers need no probing.
    """
    constant: ClassVar[bool] = False
    """Whether it chooses the same layers in every step, whatever the scores; they may be measured all the same."""
    draws: ClassVar[bool] = False
    """Whether the rule only needs to know how many layers there are. A cache of hidden states keeps the lowest layers
    from training; such a rule is then asked about the other layers alone, numbered from 0.
    """
    revision = 0
    """A counter that goes up whenever the rule's answer to the same scores changes. The selector then sends its options
    to the device again.
    """

    def bind(self, layer_names: list[str], backend: str = "auto") -> None:
        """Tells the rule which layers it decides on; called by the selector before the first step.

        Raises:
            LayerSelectError: the configuration does not fit these layers.
        """
        self._num_layers = len(layer_names)
        self._backend_name = backend
        self._backend = load_backend(backend, torch.device("cpu"))

    def prepare(self, view: ModelView) -> None:  # noqa: B027, most rules need none
        """Shows the rule the model. A rule that needs more than scores takes it from here: hooks, parameters, costs.

        Called by the selector after :meth:`bind` and before the first step, and again where parameters of the model
        were replaced by other objects: a rule must then let go of the old ones. Hooks belong to this method and to
        :meth:`close`, never to ``bind``.

        Raises:
            LayerSelectError: the configuration does not fit this model. The rule holds no hooks then.
        """

    def close(self) -> None:  # noqa: B027, likewise
        """Removes whatever :meth:`prepare` put into the model. Called when the selector is closed or another rule takes
        this one's place; may be called twice, and ``prepare`` may follow.
        """

    def against_capture(self) -> str | None:
        """Why a CUDA graph must not repeat a step with this rule; ``None`` if it may. It may where the device decides
        by scores, and where the choice never changes.
        """
        if self.uses_scores or type(self).state_dict is Rule.state_dict:
            return None
        return (
            f"rule {self.name!r} chooses on the host, and a replay would repeat one choice for good, so use a rule "
            "that decides by scores, or leave the call outside the graph"
        )

    def without_model(self) -> dict[str, Any]:
        """The attributes that belong to a model (hooks on it, weights of it), with the values that a copy of the rule
        has instead.
        """
        return {}

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: all but what belongs to a model. A selector that is built with the copy shows it
        one.
        """
        own = {name: value for name, value in vars(self).items() if name != "_backend"}
        return {**own, **self.without_model()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if "_backend_name" in state:
            self._backend = load_backend(self._backend_name, torch.device("cpu"))

    @abstractmethod
    def select(self, scores: Tensor, status: Tensor) -> Selection:
        """Decides which layers to train.

        Args:
            scores: float32 [L]; meaningful where ``status`` is ``MEASURED``.
            status: uint8 [L]; ``EXCLUDED``, ``MEASURED`` or ``NEVER_MEASURED``.
        """

    def kernel_options(self, num_layers: int, device: torch.device) -> dict[str, Any] | None:
        """What the kernels are told in order to apply the rule themselves; ``None`` where only the host can apply it.

        A class that overrides :meth:`select` alone inherits none: the kernels would apply what it changed.

        Args:
            num_layers: L.
            device: where the selection is made. Tensors among the options have to be there.
        """
        return None

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "select" in vars(cls) and "kernel_options" not in vars(cls):
            cls.kernel_options = Rule.kernel_options  # type: ignore[method-assign]

    def after_step(self, scores: Tensor, status: Tensor) -> None:  # noqa: B027, most rules need none
        """Shows the rule what a step measured. The selector calls it at the end of each step after the warm-up.

        Args:
            scores: float32 [L], live, on the device. Reading values of it would make the host wait.
            status: uint8 [L], likewise; ``EXCLUDED`` for all layers in a step that a device skipped, as a
                ``GradScaler`` does. The CPU calls this for no skipped step.
        """

    def config(self) -> dict[str, Any]:
        """The configuration, as JSON values; a rule in it as its name and its configuration."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.init}  # type: ignore[arg-type]
        return {
            name: {"name": value.name, **value.config()} if isinstance(value, Rule) else copy.deepcopy(value)
            for name, value in values.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """What of the rule changes from step to step. A rule without such state returns an empty dict."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not isinstance(state, Mapping):
            raise LayerSelectError(f"the saved state is not one of rule {self.name!r}: it is {shown(state)}")
        if state:
            raise LayerSelectError(
                f"the saved state is not one of rule {self.name!r}: it holds {sorted(map(str, state))}; use the rule "
                "of the saved run"
            )


def no_threshold(like: Tensor) -> Tensor:
    """The threshold of a rule that cuts no scores: NaN, float32 [], on the device of ``like``."""
    return torch.full((), math.nan, dtype=torch.float32, device=like.device)


def check_fraction(rule: str, name: str, value: float) -> None:
    """Raises LayerSelectError unless ``value`` is above 0 and at most 1."""
    if not 0.0 < value <= 1.0:
        raise LayerSelectError(f"rule {rule!r}: {name}={value!r} is not in (0, 1]")


def check_count(rule: str, name: str, value: int) -> None:
    """Raises LayerSelectError unless ``value`` is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise LayerSelectError(f"rule {rule!r}: {name}={value!r} is not a whole number of at least 1")


def check_saved(rule: Rule, state: dict[str, Any], kinds: Mapping[str, Kind]) -> None:
    """Whether a rule can take a saved state. Call it before anything of it is taken.

    Args:
        kinds: the entries that it holds, no more and no less.

    Raises:
        LayerSelectError: it is none of the rule's, or damaged.
    """
    if not isinstance(state, Mapping) or set(state) != set(kinds):
        held = sorted(map(str, state)) if isinstance(state, Mapping) else shown(state)
        raise LayerSelectError(f"the saved state is not one of rule {rule.name!r}: it holds {held}")
    try:
        check(Fields(kinds), state)
    except Mismatch as error:
        raise LayerSelectError(
            f"the saved state of rule {rule.name!r} is damaged ({error}): resume from an older checkpoint"
        ) from error


class GeneratorState(Kind):
    """The state of a generator of random numbers on the CPU."""

    def check(self, value: Any, where: str) -> None:
        Numbers("uint8", (None,)).check(value, where)
        try:
            torch.Generator().set_state(value)
        except (RuntimeError, TypeError) as error:
            raise Mismatch(where, "is no state of a generator of random numbers") from error


class MirrorState(Kind):
    """The state of ``mirror``."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror

    def check(self, value: Any, where: str) -> None:
        self._mirror.check_state(value, where)


def layer_list(layers: int) -> Items:
    """Numbers of some of ``layers`` layers, each at most once."""
    return Items(Whole(high=layers - 1), most=layers)


def check_layers(rule: str, name: str, value: int, layers: int) -> None:
    """Raises LayerSelectError if ``value`` layers are more than the model has."""
    if value > layers:
        raise LayerSelectError(f"rule {rule!r}: {name}={value} is more than the {layers} layers of the model")


def drawn(layers: Iterable[int], status: Tensor) -> Selection:
    """These layers, less those whose gradient is not finite; on the device of ``status``."""
    mask = torch.zeros(status.numel(), dtype=torch.bool)
    mask[list(layers)] = True
    return Selection(mask.to(status.device, non_blocking=True) & (status != EXCLUDED), no_threshold(status))


def always_selected(rule: Rule, count: int) -> Tensor:
    """The layers of a rule that is bound to so many and always selects the same: bool ``[count]``."""
    return rule.select(torch.full((count,), float("nan")), torch.full((count,), MEASURED, dtype=torch.uint8)).mask
