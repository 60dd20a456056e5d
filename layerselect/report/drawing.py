"""Drawings for a page: SVG that takes the page's colours, drawn for a wide and for a narrow page.

Text stays text: it is searched and read aloud, and it has the page's font. Nothing here touches matplotlib's global
state.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, ScalarFormatter

from .numbers import number

#: Each colour in the light and in the dark scheme. The drawings are made with the light ones.
PALETTE = {
    "blue": ("#2563eb", "#60a5fa"),
    "orange": ("#d97706", "#fb923c"),
    "green": ("#059669", "#34d399"),
    "violet": ("#7c3aed", "#c4b5fd"),
    "red": ("#dc2626", "#f87171"),
    "cyan": ("#0891b2", "#22d3ee"),
    "pale": ("#bfdbfe", "#1e4a8a"),
    "rest": ("#cbd5e1", "#475569"),
    "band": ("#ede9fe", "#3b2f63"),
    "strong": ("#0f172a", "#f1f5f9"),
    "text": ("#334155", "#cbd5e1"),
    "quiet": ("#5b6779", "#a3b1c6"),
    "axis": ("#94a3b8", "#64748b"),
    "grid": ("#e2e8f0", "#2b384d"),
}
_LIGHT = {light: name for name, (light, _) in PALETTE.items()}
BLUE, ORANGE, PALE, REST, BAND, STRONG, TEXT, QUIET, AXIS, GRID = (
    PALETTE[name][0] for name in ("blue", "orange", "pale", "rest", "band", "strong", "text", "quiet", "axis", "grid")
)
#: Of series, in their order. Neighbours differ in lightness too.
COLOURS = tuple(PALETTE[name][0] for name in ("blue", "orange", "green", "violet", "red", "cyan"))
#: Of series, so that no colour has to be told from another.
MARKERS = ("o", "s", "^", "D", "v", "P")
STYLE = {
    "svg.hashsalt": "layerselect",  # the same data gives the same bytes
    "svg.fonttype": "none",
    "image.composite_image": False,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.family": ["DejaVu Sans"],
    "font.size": 12.5,
    "axes.titlesize": 12.5,
    "axes.titlecolor": TEXT,
    "axes.titlelocation": "left",
    "legend.fontsize": 12.5,
    "legend.frameon": False,
    "legend.labelcolor": TEXT,
    "text.color": TEXT,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,  # as in the page's text
    "axes.edgecolor": AXIS,
    "axes.labelcolor": TEXT,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": AXIS,
    "ytick.color": AXIS,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "hatch.color": STRONG,
    "hatch.linewidth": 0.9,
}


@dataclass(frozen=True)
class Width:
    """A width that a figure is drawn for. A style shows one of a figure's drawings.

    Attributes:
        name: the class of the drawing.
        units: its width; one is a pixel where the drawing has all the room it wants.
    """

    name: str
    units: int

    @property
    def narrow(self) -> bool:
        return self is NARROW


WIDE, NARROW = Width("wide", 992), Width("narrow", 400)


def drawn(label: str, draw: Callable[[Figure, Width], None], height: Callable[[Width], float]) -> str:
    """A figure as markup: both of its drawings, in a box that scrolls where even the narrow one has too little room.

    Args:
        label: what the figure shows, for those who do not see it.
        draw: puts it on an empty figure.
        height: of the drawing, in the units of its width.
    """
    drawings = []
    for width in (WIDE, NARROW):
        with rc_context(STYLE):
            figure = Figure(figsize=(width.units / 72, height(width) / 72), layout="constrained")
            draw(figure, width)
            write_ticks(figure)
            drawings.append(_svg(figure, label, width.name))
    return f'<div class="figure">{"".join(drawings)}</div>'


def short(text: str, room: int) -> str:
    """A name that fits: its middle is left out where it has more than ``room`` characters."""
    if len(text) <= room:
        return text
    front = (room - 1) * 2 // 3
    return f"{text[:front]}…{text[front + 1 - room :]}"


def write_ticks(figure: Figure) -> None:
    """Lets the ticks of all linear axes be written as numbers of a page are, with thousands apart and no powers."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if type(axis.get_major_formatter()) is ScalarFormatter:
                axis.set_major_formatter(_Ticks())


def log_scale(axis: Any, set_scale: Callable[[str], None]) -> None:
    """A logarithmic axis whose ticks are written as all numbers of a page are."""
    set_scale("log")
    axis.set_major_locator(LogLocator(numticks=5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(float(value))))
    axis.set_minor_locator(NullLocator())


class _Ticks(ScalarFormatter):
    """As many digits as the ticks of the axis need."""

    def __init__(self) -> None:
        super().__init__(useOffset=False)
        self.set_scientific(False)

    def __call__(self, value: float, position: int | None = None) -> str:
        text = super().__call__(value, position)
        return re.sub(r"\d{4,}", lambda digits: f"{int(digits[0]):,}", text, count=1) if abs(value) >= 1000 else text


def _svg(figure: Figure, label: str, name: str) -> str:
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # The browser has fonts for what matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        # Not savefig: where a layout is to be found, it draws all twice, the first time onto nothing.
        FigureCanvasSVG(figure).print_svg(buffer, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace("\n", " ")
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->", "", text)
    text = re.sub(r"(?<=base64,)[^\"]*", lambda data: data[0].replace(" ", ""), text)
    used = frozenset(re.findall(r"[(\"]#(\w+)", text))
    salt = hashlib.sha256(f"{name} {label} {text}".encode("utf-8", "replace")).hexdigest()[:8]
    # Colours, fonts and names of parts stand in tags only, never in the text between them.
    text = re.sub(r"\s*(<[^>]*>)\s*", lambda tag: _own(tag[1], salt, used), text)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    return f'<svg class="{name}" role="img" aria-label="{escape(label)}" {box[0]}>{text[text.index(">") + 1 :]}'


def _own(tag: str, salt: str, used: frozenset[str]) -> str:
    """A tag with the page's colours and font, and with names that no other drawing of the page has: a drawing that is
    not shown must not lend its parts to another.
    """
    tag = re.sub(r"#[0-9a-f]{6}\b", lambda hit: _colour(hit[0]), tag)
    tag = re.sub(r" font-family: [^;\"]*;?", "", tag)
    tag = re.sub(r' (d|x|y)="[^"]*"', lambda hit: re.sub(r"\d+\.\d{3,}", _rounded, hit[0]), tag)
    tag = re.sub(r' id="([^"]*)"', lambda hit: f' id="{salt}-{hit[1]}"' if hit[1] in used else "", tag)
    return re.sub(r'(url\(#|xlink:href="#)', rf"\g<1>{salt}-", tag)


def _rounded(hit: re.Match[str]) -> str:
    return f"{float(hit[0]):.2f}"


def _colour(light: str) -> str:
    return f"var(--{_LIGHT[light]}, {light})" if light in _LIGHT else light
