"""What a comparison will be able to tell and how long it takes, said before its runs start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data import Corpus
from .comparison import read_comparison
from .config import CompareConfig
from .estimate import Duration, Try, from_finished, from_trial
from .kept import TEST, KeptRuns
from .methods import Run
from .power import Power, Shape, expected_power, measured_power
from .rows import BASELINE, Row, comparison_rows


@dataclass(frozen=True)
class Prospect:
    """What is foreseen of a comparison.

    Attributes:
        runs: how many are missing.
        tested: the rows of the corpus that are tested in the end.
        documents: those that they come from.
        reference: what the rows are compared with.
        heading: the name of the tested quality.
        margin: within which rows are as good.
        power: what can be told; ``None`` where nothing is known of such a quality yet.
        duration: of the missing runs; ``None`` where nothing was measured.
    """

    runs: int
    tested: int
    documents: int
    reference: str
    heading: str
    margin: float
    power: Power | None
    duration: Duration | None


def prospect_of(
    config: CompareConfig, missing: Sequence[Run], train: Try | None = None, corpus: Corpus | None = None
) -> Prospect:
    """What is foreseen.

    Args:
        missing: the runs that are not finished.
        corpus: as a run reads it; ``None``: it is read here.
        train: trains a run of a few steps where no run is finished; without it, no time is given then.
    """
    if corpus is None:
        corpus = config.settings((missing or config.runs())[0], config.out).load_corpus()
    examples = {name: len(split) for name, split in corpus.splits.items()}
    rows = _tested(config, corpus)
    documents = {row["doc_id"] for row in rows}
    duration = from_finished(config, KeptRuns(Path(config.out), config.kind), missing)
    if duration is None and train is not None:
        duration = from_trial(config, missing, examples, train)
    return Prospect(
        len(missing),
        len(rows),
        len(documents),
        config.reference_variant.name if config.reference_variant else "",
        config.kind.tested[1],
        config.within,
        _power(config, rows, len(documents)),
        duration,
    )


def _tested(config: CompareConfig, corpus: Corpus) -> list[Mapping[str, Any]]:
    """The rows that are tested: all with folds, else those of the reported split."""
    if config.folds:
        return [row for split in corpus.splits.values() for row in split]
    names = (config.split, TEST, "validation")
    name = next((name for name in names if name in corpus.splits), None)
    return list(corpus.splits[name]) if name else []


def _power(config: CompareConfig, rows: Sequence[Mapping[str, Any]], documents: int) -> Power | None:
    shape = Shape(documents, config.seeds, config.folds or 1, len(config.variants) - 1, config.within)
    if not documents or not shape.rows or config.seeds < 2:
        return None
    if measured := power_of_rows(comparison_rows(read_comparison(config)), shape):
        return measured
    if config.task != "intent":
        return None
    labels = Counter(label for row in rows for label in row["intentions"])
    return expected_power(list(labels.values()), shape)


def power_of_rows(rows: Sequence[Row], shape: Shape) -> Power | None:
    """What can be told if the missing runs are like the finished ones of these rows; ``None`` where no row has two
    seeds.
    """
    differences = [row.difference for row in rows if row.difference is not None and row.what != BASELINE]
    variances = [each.variance for each in differences if each.seeds > 1]
    return measured_power(variances, shape) if variances else None
