"""Pages whose figures are drawn once: a figure of the same data is the same, and drawing takes most of the time."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest

#: Where pages take their figures from.
_FIGURES = {
    "figures": ("curves", "frequency_bars", "transfer_bars"),
    "heat_map": ("heat_map",),
    "card_figures": ("cost_bars", "coupling_matrix", "feature_bars", "quality_cost_front", "strength_bars"),
    "compare_figures": ("learning_curves", "quality_against_time"),
    "verdict_figure": ("differences_figure",),
    "plan_figure": ("bars_figure",),
}


def _remembering(draw: Callable[..., str]) -> Callable[..., str]:
    known: dict[bytes, str] = {}

    @functools.wraps(draw)
    def figure(*args: Any, **options: Any) -> str:
        data = pickle.dumps((args, options))
        if data not in known:
            known[data] = draw(*args, **options)
        return known[data]

    return figure


@functools.cache
def _figures() -> list[tuple[Any, str, Callable[..., str], Callable[..., str]]]:
    """The module and the name of each figure, the function itself, and the one that remembers."""
    modules = [(import_module(f"layerselect.report.{module}"), names) for module, names in _FIGURES.items()]
    found = [(module, name, getattr(module, name)) for module, names in modules for name in names]
    return [(module, name, draw, _remembering(draw)) for module, name, draw in found]


@contextmanager
def _each(*, anew: bool) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module, name, draw, remembering in _figures():
            patch.setattr(module, name, draw if anew else remembering)
        yield


@pytest.fixture(scope="module", autouse=True)
def drawn_once() -> Iterator[None]:
    """For a conftest or a test file that makes many pages."""
    with _each(anew=False):
        yield


@pytest.fixture
def drawn_anew(drawn_once: None) -> Iterator[None]:
    """For a single test among them in which each page draws its figures."""
    with _each(anew=True):
        yield
