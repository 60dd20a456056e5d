"""Before a training its selector is tried: whether it fits the model, and whether hidden states can be kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from torch import nn

from ...errors import LayerSelectError
from ...layers.find import split_parameters
from ...rules import Fixed, LayerCardRule
from ...rules.ablation import evaluating
from ...rules.base import always_selected
from ...selector.selector import FastSelector
from ...state_cache import StateCache
from ...utils.launch import launched
from .budget import BY_BUDGET
from .importance_split import tried_on
from .memory import TRIED_EVALUATION, trying
from .settings import NO_CACHE, TrainingSettings
from .training import selector_options

logger = logging.getLogger(__name__)

Settings = TypeVar("Settings", bound=TrainingSettings)

#: After so many passes it is known whether hidden states can be kept: a state cache looks at a few new settings before
#: it gives up.
_CALLS = 6


def check_above(selector: FastSelector) -> None:
    """Checks that something above the cut can train.

    Raises:
        LayerSelectError: all layers that the rule will ever select are below the cut, and nothing outside the layers
            trains.
    """
    cut, layers = selector.cut or 0, selector.num_layers
    has_outer = sum(p.numel() for p in selector.trainable_parameters()) > sum(selector.layer_sizes)
    if not cut or has_outer or not isinstance(selector.rule, (Fixed, LayerCardRule)):
        return
    chosen = always_selected(selector.rule, layers)
    if not chosen[cut:].any():
        raise LayerSelectError(
            f"nothing would train: the rule selects the layers {chosen.nonzero().flatten().tolist()}, all below the "
            f"cut, which is below layer {cut}: lower --cut, or select other layers"
        )


def try_selector(model: nn.Module, settings: Settings, call: Callable[[int], object]) -> Settings:
    """Finds out before the training begins whether the selector that the settings ask for fits the model, and whether
    its hidden states can be kept, if they are to be. Writes nothing.

    Args:
        call: runs the model on a few examples, as the training will; on other ones for each number.

    Returns:
        The settings. Where they left to the model whether hidden states are cached, they say it.

    Raises:
        LayerSelectError: something does not fit.
    """
    settings.check_cut(len(split_parameters(model).names))
    with trying(TRIED_EVALUATION, "a few examples"):
        if settings.state_cache == BY_BUDGET:
            return _with_cache(model, settings, call)
        _try_selector(model, settings, call)
    return settings


def _with_cache(model: nn.Module, settings: Settings, call: Callable[[int], object]) -> Settings:
    """The settings with a cache for this run, if the model's hidden states can be cached and reading them is faster;
    else without one.
    """
    plain = replace(settings, **NO_CACHE)
    why = _against_cache(settings)
    if not why:
        cached = replace(settings, state_cache="cached", state_cache_store=settings.state_cache_store or "none")
        try:
            _try_selector(model, cached, call)
        except LayerSelectError as error:
            why = str(error)
        else:
            with _tried_selector(model, replace(cached, state_cache="auto"), cut=1, budget=None) as selector:
                why = "" if selector.state_cache is not None else "computing them is faster here than reading them"
            if not why:
                return cached
    logger.info("no hidden states are cached to keep to the budget: %s", why)
    _try_selector(model, plain, call)
    return plain


def _against_cache(settings: TrainingSettings) -> str:
    """What of the settings speaks against a cache that nobody asked for; empty where nothing does."""
    if launched() > 1:
        return "several processes share a cache only where --state-cache asks for it"
    if settings.gradient_checkpointing == "reentrant":
        return "reentrant checkpointing needs inputs that take gradients"
    return ""


def _try_selector(model: nn.Module, settings: TrainingSettings, call: Callable[[int], object]) -> None:
    with _tried_selector(model, settings) as selector:
        check_above(selector)
        if selector.state_cache is not None:
            call(0)
            if settings.state_cache == "cached":
                _check_kept(selector.state_cache, call)
    if settings.state_cache != "none" and selector.cut is None:
        # The cut is chosen in the first steps; what holds of the lowest one holds of all.
        with _tried_selector(model, settings, cut=1, budget=None):
            call(0)


def _check_kept(state_cache: StateCache, call: Callable[[int], object]) -> None:
    """Checks that the model can read its cached hidden states when it is called again.

    Args:
        call: was made with 0 already.

    Raises:
        LayerSelectError: the model does not let its hidden states be read when it is called again.
    """
    for number in range(1, _CALLS):
        call(number)
        if state_cache.settled or state_cache.reasons:
            break
    if state_cache.reasons and not state_cache.settled:
        raise LayerSelectError(
            f"no hidden states of this model can be kept, since {'; '.join(state_cache.reasons)}: train with "
            "--state-cache none"
        )


@contextmanager
def _tried_selector(model: nn.Module, settings: TrainingSettings, **changes: Any) -> Iterator[FastSelector]:
    """A selector that makes no step, with a small store of its own in memory, and the model in evaluation mode."""
    options = {**selector_options(settings), **changes}
    options["rule"] = tried_on(options["rule"])
    with FastSelector(model, **options) as selector, evaluating(model):
        yield selector
