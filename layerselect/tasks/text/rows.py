"""The rows of a corpus by the role of their split, for any task."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from ...data import Corpus
from ...data.splits import document_splits
from ...errors import LayerSelectError

logger = logging.getLogger(__name__)

TRAIN = "train"
HOLDOUT = "holdout"


def split_rows(corpus: Corpus, *, holdout: float = 0.0, seed: int = 0) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of each split that has some.

    Args:
        holdout: this fraction of the training split, in whole documents, becomes the split ``holdout``.
        seed: of that choice.

    Raises:
        LayerSelectError: an empty or missing training split, or too few documents to hold some out.
    """
    rows = {name: list(split) for name, split in corpus.splits.items()}
    if not rows.get(TRAIN):
        raise LayerSelectError(
            f"the training split of {corpus.name!r} is empty (splits: {', '.join(rows) or 'none'}): use --splits "
            "document to split all rows anew"
        )
    for name in [name for name, split in rows.items() if not split]:
        logger.warning("the split %s of %s is empty and is left out", name, corpus.name)
        del rows[name]
    if holdout:
        names = document_splits(
            [row["doc_id"] for row in rows[TRAIN]],
            [row["intentions"] for row in rows[TRAIN]],
            fractions=(1 - holdout, holdout, 0.0),
            seed=seed,
        )
        kept = [row for row, name in zip(rows[TRAIN], names, strict=True) if name == TRAIN]
        rows[HOLDOUT] = [row for row, name in zip(rows[TRAIN], names, strict=True) if name != TRAIN]
        rows[TRAIN] = kept
    return rows


def watched_split(rows: Mapping[str, Any]) -> str | None:
    """The split that is evaluated while training and chooses the checkpoint, if there is one."""
    return next((name for name in (HOLDOUT, "validation") if rows.get(name)), None)


class Examples(Protocol):
    """A split of any task."""

    def __len__(self) -> int: ...

    def subset(self, indices: Sequence[int]) -> Examples:
        """The examples at ``indices``, in that order."""
        ...


Split = TypeVar("Split", bound=Examples)


def evaluated_part(split: Split, limit: int | None, seed: int) -> Split:
    """The examples that are evaluated: all, or ``limit`` of them drawn by ``seed`` alone, in their order."""
    if limit is None or limit >= len(split):
        return split
    chosen = np.random.default_rng((seed, len(split))).permutation(len(split))[:limit]
    return split.subset(sorted(chosen.tolist()))  # type: ignore[return-value]
