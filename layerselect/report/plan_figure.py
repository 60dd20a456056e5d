"""The parts of a training step's peak, one bar for each way of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..utils.sizes import show_bytes
from .drawing import BLUE, COLOURS, ORANGE, QUIET, REST, STRONG, Width, drawn

_GB = 1e9


@dataclass(frozen=True)
class Bar:
    """One way of training, in bytes.

    Attributes:
        optimizer: its state, and the gradients.
        activations: what the forward pass keeps.
        peak: the most that is held at one time.
    """

    name: str
    weights: int
    optimizer: int
    activations: int
    peak: int

    def parts(self) -> tuple[tuple[str, str, int], ...]:
        """Name, colour and bytes of each part of the peak. Gradients come while activations go, so what both would
        have above the peak is left out of the activations.
        """
        activations = max(0, min(self.activations, self.peak - self.weights - self.optimizer))
        rest = max(0, self.peak - self.weights - self.optimizer - activations)
        return (
            ("weights", BLUE, self.weights),
            ("gradients, optimizer", ORANGE, self.optimizer),
            ("activations", COLOURS[2], activations),
            ("for a moment", REST, rest),
        )


def bars_figure(bars: Sequence[Bar], memory: int | None, held: str, end: float) -> str:
    """A bar for each way of training, and a line where the card ends.

    Args:
        memory: of the card, in bytes; ``None`` draws no line.
        held: how the weights are held.
        end: of the axis, in bytes.
    """

    def draw(figure: Figure, width: Width) -> None:
        axes = figure.add_subplot()
        right = end / _GB * (1.25 if width.narrow else 1.1)
        for place, bar in enumerate(bars):
            left = 0.0
            for name, colour, size in bar.parts():
                label = name if place == 0 else None
                axes.barh(place, size / _GB, left=left, color=colour, height=0.62, label=label)
                left += size / _GB
            axes.text(right, place, show_bytes(bar.peak), ha="right", va="center", color=QUIET)
        if memory is not None:
            axes.axvline(memory / _GB, color=STRONG, lw=1.6, ls=(0, (4, 3)), label="the card")
        axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.set_xlim(0, right)
        axes.xaxis.set_major_locator(MaxNLocator(4 if width.narrow else 8))
        axes.set_xlabel("GB")
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="outside upper left", ncols=2 if width.narrow else 5)

    listed = (f"{bar.name} {show_bytes(bar.peak)}" for bar in bars)
    card = "" if memory is None else f"; the card has {show_bytes(memory)}"
    return drawn(
        f"Peak memory with weights in {held}: {', '.join(listed)}{card}.",
        draw,
        lambda width: (150 if width.narrow else 100) + 34 * len(bars),
    )
