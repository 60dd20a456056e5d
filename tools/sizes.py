"""What a comparison's rows of smaller training splits come to, beside regressions that learned from as much."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from layerselect.utils.markdown import table
from tools.attempts import PARTNER, REGRESSION
from tools.kept_predictions import Predictions, Scores

#: The seed of which there are rows of every size.
_SEED = 0
_WHOLE = "100%"


def sizes_table(smaller: Path, whole: Path) -> str:
    """Macro-F1 by the size of the training split, in Markdown, and differences with intervals of 95 % over documents.

    Args:
        smaller: the folder of a comparison by folds whose rows have a size each (``all@10%``).
        whole: that of one with the same folds, whose rows train on everything.
    """
    kept = Predictions(smaller)
    found: dict[str, dict[str, tuple[Predictions, Scores]]] = {REGRESSION: {}, PARTNER: {}}
    for row in kept.rows_of_sizes():
        assert row.train_size is not None
        found.setdefault(row.plain.short, {})[row.train_size] = kept, kept.of_rows([row.name], [_SEED])
        for name in (REGRESSION, PARTNER):
            found[name][row.train_size] = kept, kept.of_baseline(f"{name}@{row.train_size}")
    others = Predictions(whole)
    for name, by_size in found.items():
        if name in (REGRESSION, PARTNER):
            by_size[_WHOLE] = others, others.of_baseline(name)
        else:
            row_name = next(row.name for row in others.plain_rows() if row.short == name)
            by_size[_WHOLE] = others, others.of_rows([row_name], [_SEED])
    sizes = list(next(iter(found.values())))

    def line(name: str, values: Callable[[str], str]) -> list[str]:
        return [name, *map(values, sizes)]

    def quality(name: str) -> Callable[[str], str]:
        return lambda size: f"{found[name][size][0].facts(found[name][size][1])[0]:.3f}" if size in found[name] else ""

    def beside(name: str, other: str) -> Callable[[str], str]:
        def values(size: str) -> str:
            if size not in found[name] or size not in found[other]:
                return ""
            place, scores = found[name][size]
            return str(place.beside(scores, found[other][size][1])[0])

        return values

    methods = [name for name in found if name not in (REGRESSION, PARTNER)]
    first = methods[0]
    lines = [line(name if name in (REGRESSION, PARTNER) else f"`{name}`", quality(name)) for name in found]
    lines += [line(f"`{name}` beside the {REGRESSION}", beside(name, REGRESSION)) for name in methods]
    lines += [line(f"`{name}` beside `{first}`", beside(name, first)) for name in methods[1:]]
    return table(("macro-F1", *sizes), lines)
