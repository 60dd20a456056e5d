"""Splits that share no document, and the count of documents that official splits do share."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from .schema import SPLITS, CorpusError
from .sizes import Fold, TrainSize

TRIES = 256
"""Random orders of the documents among which `document_splits` takes the best balanced one."""

WORK = 16_000_000
"""Documents x (labels + 8) x orders: of a large corpus fewer orders are tried, and they differ less."""

CELLS = 4_000_000
"""Documents x labels that are counted: beyond that the rarest labels are left out of the balance."""

_ALIASES = {
    "train": "train",
    "training": "train",
    "dev": "validation",
    "devel": "validation",
    "development": "validation",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


def split_name(word: str) -> str | None:
    """The split that a file name or a cell means ("dev" -> "validation"), or None."""
    return _ALIASES.get(word.strip().lower())


def document_splits(
    doc_ids: Sequence[str],
    intentions: Sequence[Sequence[str]],
    *,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> list[str]:
    """Name a split for every row so that no document stands in two splits.

    `TRIES` random orders (fewer of a very large corpus) of the documents are cut where the number of rows comes nearest
    to the fractions; the order is kept whose splits are nearest to them in rows and in every label (chi-square
    distance). The result depends on the seed and on which documents there are, not on the order of the rows.

    Args:
        doc_ids: document of each row.
        intentions: labels of each row.
        fractions: shares of train, validation and test; a split with share 0 is left out.
        seed: seed of the orders.

    Raises:
        CorpusError: bad fractions, or fewer documents than splits.
    """
    names = _wanted(fractions)
    parts = _dealt(
        doc_ids, intentions, [share for share in fractions if share > 0], f"the splits {', '.join(names)}", seed
    )
    return [names[part] for part in parts]


def fold_splits(
    doc_ids: Sequence[str],
    intentions: Sequence[Sequence[str]],
    fold: Fold,
    *,
    validation: float = 0.1,
    seed: int = 0,
) -> list[str]:
    """Name a split for every row where one of several folds is tested and the others train.

    The folds are dealt as the splits of `document_splits` are, with equal shares, and depend on their number and the
    seed alone: over all of them each row is tested once. Of the documents outside the tested fold, a share is the
    validation split, so that whatever is chosen while training is chosen without the tested fold.

    Args:
        doc_ids: document of each row.
        intentions: labels of each row.
        fold: which one is tested.
        validation: the share of the other folds' rows that is the validation split.
        seed: seed of the folds, and of the validation splits in them.

    Raises:
        CorpusError: fewer documents than it takes.
    """
    others, _ = fold_places(doc_ids, intentions, fold.of, seed=seed)[fold.number - 1]
    names = ["test"] * len(doc_ids)
    inner = document_splits(
        [doc_ids[row] for row in others],
        [intentions[row] for row in others],
        fractions=(1 - validation, validation, 0.0),
        seed=seed,
    )
    for row, name in zip(others, inner, strict=True):
        names[row] = name
    return names


def fold_places(
    doc_ids: Sequence[str], intentions: Sequence[Sequence[str]], folds: int, *, seed: int = 0
) -> list[tuple[list[int], list[int]]]:
    """For each fold of `fold_splits` the places of the rows outside it, and of those in it.

    Raises:
        CorpusError: fewer documents than folds.
    """
    parts = _dealt(doc_ids, intentions, [1 / folds] * folds, f"{folds} folds", seed)
    rows = range(len(parts))
    return [([i for i in rows if parts[i] != n], [i for i in rows if parts[i] == n]) for n in range(folds)]


def _dealt(
    doc_ids: Sequence[str], intentions: Sequence[Sequence[str]], shares: Sequence[float], what: str, seed: int
) -> list[int]:
    """The part of each row when whole documents are dealt into parts of the given shares."""
    documents = sorted(set(doc_ids))
    if len(documents) < len(shares):
        raise CorpusError(
            f"{len(documents)} document(s) cannot fill {what} without "
            "sharing a document: give more documents, a document column that tells them apart, or ask for fewer of them"
        )
    counts = _counts(documents, doc_ids, intentions)
    target = np.array(shares)[:, None] * counts.sum(axis=0)
    draw = random.Random(seed)
    order = list(range(len(documents)))
    best: tuple[float, dict[str, int]] | None = None
    for _ in range(max(4, min(TRIES, WORK // (len(documents) * (counts.shape[1] + 8))))):
        draw.shuffle(order)
        bounds = _cuts(counts[order, 0], np.array(shares))
        sums = np.stack([counts[order[a:b]].sum(axis=0) for a, b in itertools.pairwise(bounds)])
        cost = float(((sums - target) ** 2 / np.maximum(target, 1)).sum())
        if best is None or cost < best[0]:
            pieces = enumerate(itertools.pairwise(bounds))
            best = cost, {documents[i]: part for part, (a, b) in pieces for i in order[a:b]}
    assert best is not None  # TRIES > 0
    return [best[1][doc_id] for doc_id in doc_ids]


def part_of_training(doc_ids: Sequence[str], size: TrainSize, *, seed: int = 0) -> list[bool]:
    """Whether each row of a training split stands in a part of it that is made of whole documents.

    The documents are taken in a random order up to the number of documents whose rows come nearest to the size, at
    least one. A smaller part is so contained in every larger one.

    Args:
        doc_ids: document of each row.
        size: how much is taken.
        seed: seed of the order.
    """
    counts = Counter(doc_ids)
    order = sorted(counts)
    random.Random(seed).shuffle(order)
    rows = np.cumsum([counts[document] for document in order])
    nearest = 1 + int(np.argmin(np.abs(rows - size.rows(len(doc_ids)))))
    kept = set(order[:nearest])
    return [document in kept for document in doc_ids]


def shared_documents(doc_ids: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], int]:
    """How many documents stand in both splits of each pair of splits; pairs that share none are left out.

    Args:
        doc_ids: split -> document of each of its rows.
    """
    found = {}
    for first, second in itertools.combinations(doc_ids, 2):
        if shared := len(set(doc_ids[first]) & set(doc_ids[second])):
            found[first, second] = shared
    return found


def _wanted(fractions: Sequence[float]) -> list[str]:
    shares = list(fractions)
    if len(shares) != 3 or min(shares) < 0 or shares[0] <= 0 or not abs(sum(shares) - 1) < 1e-6:
        raise CorpusError(
            f"split fractions {tuple(shares)} are not three shares of train, validation and test that add up "
            "to 1 with a train share above 0"
        )
    return [name for name, share in zip(SPLITS, shares, strict=True) if share > 0]


def _counts(documents: list[str], doc_ids: Sequence[str], intentions: Sequence[Sequence[str]]) -> np.ndarray:
    """float64[documents, 1 + labels]: rows of each document, then rows of each label."""
    found = Counter(label for row in intentions for label in row)
    labels = sorted(found)
    if (most := max(1, CELLS // len(documents))) < len(labels):
        labels = [label for label, _ in found.most_common(most)]
    column = {label: number for number, label in enumerate(labels, start=1)}
    line = {doc_id: number for number, doc_id in enumerate(documents)}
    counts = np.zeros((len(documents), 1 + len(labels)))
    for doc_id, row in zip(doc_ids, intentions, strict=True):
        counts[line[doc_id], 0] += 1
        for label in set(row):
            if label in column:
                counts[line[doc_id], column[label]] += 1
    return counts


def _cuts(sizes: np.ndarray, shares: np.ndarray) -> list[int]:
    """Bounds 0 = b_0 < b_1 < ... = number of documents, at the row counts nearest to the shares."""
    rows = np.cumsum(sizes)
    goals = np.cumsum(shares)[:-1] * rows[-1]
    bounds = [0]
    for left, goal in zip(range(len(goals), 0, -1), goals, strict=True):
        lowest, highest = bounds[-1] + 1, len(sizes) - left  # every split keeps at least one document
        nearest = lowest + int(np.argmin(np.abs(rows[lowest - 1 : highest] - goal)))
        bounds.append(nearest)
    return [*bounds, len(sizes)]
