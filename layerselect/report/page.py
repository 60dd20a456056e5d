"""What all report pages share: the templates' environment and how values are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import LayerSelectError
from ..metrics.enough import too_few_steps
from . import numbers

_TEMPLATES = Path(__file__).parent / "templates"


def page_environment() -> Any:
    """The jinja2 environment of the pages; everything that comes from a corpus or an option is escaped.

    Raises:
        LayerSelectError: jinja2 or matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise LayerSelectError(f"the report needs {error.name}: pip install 'layerselect[report]'") from error
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # matplotlib is asked for above, so that a page without it says what to install.
    from .drawing import PALETTE
    from .heat_map import IDLE, TRAINED

    environment.filters.update(
        number=numbers.number,
        score=numbers.score,
        share=numbers.share,
        measure=numbers.measure,
        seconds=numbers.seconds,
        amount=numbers.amount,
        fact=lambda value, name: numbers.fact(name, value),
        fact_name=numbers.fact_name,
        setting=_setting,
        inside=lambda name, layer: name.removeprefix(f"{layer}."),
        at_dots=_at_dots,
        shade=_shade,
    )
    environment.globals.update(
        plural=numbers.plural,
        bests=numbers.bests,
        too_few_steps=too_few_steps,
        palette=PALETTE,
        trained_colour=TRAINED,
        idle_colour=IDLE,
    )
    return environment


def svg(drawing: str) -> Any:
    """A drawing of ours, which goes into a page as it is."""
    from markupsafe import Markup

    return Markup(drawing)


def _at_dots(name: str) -> Any:
    """A dotted name that may be broken behind its dots, so that no word of it is cut in two."""
    from markupsafe import Markup, escape

    return Markup(".<wbr>").join(escape(part) for part in name.split("."))


def _setting(value: Any, name: str) -> str:
    """A setting as it was given, seeds without thousands; nothing is ever rounded."""
    return f"{value:g}" if isinstance(value, float) else numbers.fact(f"{name}_seed" if "seed" in name else name, value)


def _shade(count: int, row: Sequence[int]) -> str:
    """The background of a confusion cell: the share of its row."""
    total = sum(row)
    alpha = 0.55 * count / total if total else 0.0
    return f"rgba(37,99,235,{alpha:.3f})"
