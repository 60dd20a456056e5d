"""The figures of a training run: how often layers were selected, what was taken over, and how it went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .drawing import BAND, BLUE, COLOURS, MARKERS, ORANGE, PALE, QUIET, REST, TEXT, Width, drawn, short
from .numbers import number, plural, score, share

#: What the evaluations of a classifier measure.
CLASSIFICATION = (("macro_f1", "macro-F1"), ("macro_auprc", "macro AUPRC"), ("accuracy", "accuracy"))
#: Of selections, of those of them that trained.
_BARS = (PALE, BLUE)
#: More bars than this have no room for their values beside one another.
_MOST_LABELLED = 11
#: More layers than this are not read out one by one.
_MOST_READ = 16


def frequency_bars(selected: Sequence[int], steps: int, trained: Sequence[int] | None = None) -> str:
    """In which share of the steps each layer was selected (light), and selected and trained (dark)."""
    shares = [np.asarray(counts, dtype=float) / max(1, steps) for counts in (selected, trained) if counts is not None]
    layers = len(shares[0])
    texts = [" / ".join(share(float(each[layer])) for each in shares) for layer in range(layers)]

    def draw(figure: Figure, width: Width) -> None:
        axes = figure.add_subplot()
        for each, colour, name in zip(shares, _BARS[-len(shares) :], ("selected", "trained"), strict=False):
            if width.narrow:
                axes.barh(range(layers), each, color=colour, height=0.72, label=name)
            else:
                axes.bar(range(layers), each, color=colour, width=0.72, label=name)
        if width.narrow or layers <= _MOST_LABELLED:
            axes.bar_label(axes.containers[0], texts, color=TEXT, padding=3)
        if trained is not None:
            axes.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
        ends = (-0.7, layers - 0.3)
        if width.narrow:
            # Room for the values behind the longest bar.
            axes.set(xlim=(0, 1.42), ylim=ends, ylabel="layer", xlabel="share of steps")
            axes.set_xticks([0, 0.5, 1], ["0", "50%", "100%"])
            axes.set_yticks(range(layers))
        else:
            axes.set(ylim=(0, 1.15), xlim=ends, xlabel="layer", ylabel="share of steps")
            axes.set_yticks([0, 0.5, 1], ["0", "50%", "100%"])
            axes.set_xticks(range(0, layers, max(1, -(-layers // 32))))

    what = "selected" if trained is None else "selected / trained"
    return drawn(
        f"Bars for {plural(layers, 'layer')}: in which share of {plural(steps, 'step')} each was {what}: "
        + _read_out(texts, shares[0]),
        draw,
        lambda width: 90 + 21 * layers if width.narrow else 200,
    )


def transfer_bars(
    frequency: Sequence[int],
    shared: Sequence[int],
    own_frequency: Sequence[int],
    own: Sequence[int],
    own_steps: int | None = None,
) -> str:
    """How often each layer was chosen: by the predictor above, by the generator below; the layers of both on a light
    band.

    Args:
        frequency, shared: the predictor's counts, and the layers whose adapters were taken over.
        own_frequency, own: the generator's counts and its own choice of layers.
        own_steps: the generator's counts become shares of these steps.
    """
    counts = np.asarray(own_frequency, dtype=float)
    rows = [
        (np.asarray(frequency, dtype=float), shared, BLUE, "predictor", "selections"),
        (
            100 * counts / own_steps if own_steps else counts,
            own,
            ORANGE,
            "generator",
            "% of steps" if own_steps else "selections",
        ),
    ]
    rows = [row for row in rows if len(row[0])]
    layers = max([len(counts) for counts, *_ in rows] + [layer + 1 for layer in (*shared, *own)])

    def draw(figure: Figure, width: Width) -> None:
        panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False).ravel()
        for panel, (counts, chosen, colour, name, unit) in zip(panels, rows, strict=True):
            for layer in set(shared) & set(own):
                panel.axvspan(layer - 0.5, layer + 0.5, color=BAND, lw=0, zorder=0)
            colours = [colour if layer in set(chosen) else REST for layer in range(len(counts))]
            panel.bar(range(len(counts)), counts, color=colours, width=0.72, zorder=2)
            panel.set(ylabel=unit, xlim=(-0.7, layers - 0.3), title=name)
            panel.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        panels[-1].set_xlabel("layer")
        panels[-1].set_xticks(range(0, layers, max(1, -(-layers // (12 if width.narrow else 32)))))

    def listed(chosen: Sequence[int]) -> str:
        return ", ".join(map(str, sorted(chosen))) or "none"

    return drawn(
        f"Bars for {plural(layers, 'layer')}: how often each was chosen. The predictor's layers: {listed(shared)}; the "
        f"generator's own choice: {listed(own)}.",
        draw,
        lambda width: 40 + 130 * len(rows),
    )


def curves(
    losses: Sequence[Mapping[str, Any]],
    metrics: Sequence[Mapping[str, Any]],
    quality: Sequence[tuple[str, str]] = CLASSIFICATION,
    top: float = 1.0,
) -> str:
    """Loss beside quality over the steps: the training loss, and what each evaluation during training found.

    Args:
        quality: up to four keys of the evaluations to draw, with their names; one that no evaluation has is left out.
        top: the end of the quality's scale.
    """
    evaluations = [row for row in metrics if not row.get("final")]
    measured = [pair for pair in quality if any(pair[0] in row for row in evaluations)]
    nothing = "no quality measured during training" if evaluations else "no evaluation during training"
    last = max([row["step"] for row in (*losses, *evaluations)], default=1)

    def draw(figure: Figure, width: Width) -> None:
        left, right = figure.subplots(*((2, 1) if width.narrow else (1, 2)))
        _series(left, losses, "loss", "training", 0, marker=len(losses) == 1)
        if evaluations:
            _series(left, evaluations, "loss", short(str(evaluations[0]["split"]), 24), 1)
        for (key, name), which in zip(measured, (0, 2, 3, 1), strict=False):
            _series(right, [row for row in evaluations if key in row], key, name, which)
        if measured:
            right.legend(loc="best")
            right.set_title(f"quality on {short(str(evaluations[0]['split']), 24)}")
        else:
            right.text(0.5, 0.5, nothing, ha="center", va="center", color=QUIET, transform=right.transAxes)
        right.set_ylim(0, top)
        left.set_ylim(bottom=0)
        left.set_title("loss")
        if losses or evaluations:
            left.legend()
        for axes in (left, right):
            axes.set_xlim(0, 1.03 * last)
            axes.set_xlabel("step")
            axes.xaxis.set_major_locator(MaxNLocator(4 if width.narrow else 6, integer=True))
            axes.grid(axis="y")

    words = f"Curves over {plural(int(last), 'step')}."
    if losses:
        words += f" The training loss goes from {number(float(losses[0]['loss']))} to "
        words += f"{number(float(losses[-1]['loss']))}."
    for key, name in measured:
        final = [row for row in evaluations if key in row][-1]
        words += f" {name} on {final['split']} ends at {score(final[key], 3 if top <= 1 else 1)}."
    return drawn(
        words if measured else f"{words} There was {nothing}.", draw, lambda width: 440 if width.narrow else 270
    )


def _series(
    axes: Axes, rows: Sequence[Mapping[str, Any]], key: str, name: str, which: int, *, marker: bool | None = None
) -> None:
    """A curve, with a mark of its own at each value where there are few of them."""
    marked = which > 0 or key != "loss" if marker is None else marker
    axes.plot(
        [row["step"] for row in rows],
        [row[key] for row in rows],
        color=COLOURS[which],
        marker=MARKERS[which] if marked else None,
        ms=5,
        lw=1.5,
        label=name,
    )


def _read_out(texts: Sequence[str], shares: np.ndarray) -> str:
    """The values of few layers, or between which values those of many lie."""
    if len(texts) <= _MOST_READ:
        return ", ".join(f"layer {layer} {text}" for layer, text in enumerate(texts)) + "."
    most, least = int(shares.argmax()), int(shares.argmin())
    return f"most layer {most}, {texts[most]}, least layer {least}, {texts[least]}."
