"""What is kept of a run's predictions, numbers without a text, and how the task's quality is made of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...metrics import EditReport, classification_report, edit_counts, sari_counts, sari_parts
from ...metrics.edits import NUMBERS
from ..run.baselines import MajorityBaseline, TextRegression, WordBaseline
from ..run.word_features import describe
from ..text.rows import TRAIN, split_rows

Records = Sequence[Mapping[str, Any]]

#: Probabilities are kept as whole numbers of this part.
PARTS = 10_000


def in_parts(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities as they are kept, int64."""
    found: np.ndarray = np.rint(probabilities * PARTS).astype(np.int64)
    return found


@dataclass(frozen=True)
class Truth:
    """The examples of a split, without their texts.

    Attributes:
        ids, documents: of each of the n examples, in the order of their ids.
        labels: bool ``[n, C]``.
        names: of the C labels.
        multi_label: an example may have several.
    """

    ids: Sequence[str]
    documents: Sequence[str]
    labels: np.ndarray
    names: Sequence[str]
    multi_label: bool

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def joined(cls, parts: Sequence[Truth]) -> Truth:
        """The examples of several parts of a corpus, one after the other."""
        return cls(
            [each for part in parts for each in part.ids],
            [each for part in parts for each in part.documents],
            np.concatenate([part.labels for part in parts]),
            parts[0].names,
            parts[0].multi_label,
        )


class Counts(ABC):
    """How a task's predictions are counted. A statistic is an int64 row of numbers for each example.

    Attributes:
        of_each_size: the baselines that learn, which have a row for each size of the training split.
    """

    of_each_size: ClassVar[Collection[str]] = ()

    @abstractmethod
    def widths(self, truth: Truth) -> Collection[int]:
        """How many numbers k the statistic of an example may have: as it is now, and as earlier releases kept it."""

    @abstractmethod
    def statistics(self, records: Records, truth: Truth) -> np.ndarray:
        """What is kept of the lines of ``predictions.jsonl``, in the order of ``truth``: int64 ``[n, k]``."""

    @abstractmethod
    def counts(self, statistics: np.ndarray, truth: Truth) -> np.ndarray:
        """What is summed over examples: float64 ``[n, m]``."""

    @abstractmethod
    def quality(self, sums: np.ndarray) -> np.ndarray:
        """The tested quality of summed counts: float64 ``[..., m]`` to ``[...]``."""

    @abstractmethod
    def pooled(self, statistics: np.ndarray, truth: Truth) -> dict[str, float]:
        """The qualities that can be computed of examples from several folds."""

    @abstractmethod
    def baselines(
        self, settings: Any, corpus: Any, records: Mapping[str, Records], truth: Mapping[str, Truth]
    ) -> dict[str, dict[str, np.ndarray]]:
        """The statistics of each baseline that can be computed here, by its name and the split.

        Args:
            settings: of a run.
            corpus: as the run reads it.
            records: the predictions of that run, by split, in the order of ``truth``.
            truth: by split.
        """


class IntentCounts(Counts):
    """Probabilities in parts of ten thousand, of which macro-F1 needs right, true and predicted for each label."""

    of_each_size = (WordBaseline.name, TextRegression.name)

    def widths(self, truth: Truth) -> Collection[int]:
        return (len(truth.names),)

    def statistics(self, records: Records, truth: Truth) -> np.ndarray:
        scores = [[record["scores"][name] for name in truth.names] for record in records]
        return in_parts(np.array(scores, dtype=np.float64).reshape(len(records), -1))

    def counts(self, statistics: np.ndarray, truth: Truth) -> np.ndarray:
        predicted = self._predicted(statistics, truth)
        return np.concatenate([truth.labels & predicted, truth.labels, predicted], axis=1).astype(np.float64)

    def quality(self, sums: np.ndarray) -> np.ndarray:
        right, true, predicted = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
        f1 = 2 * right / np.maximum(true + predicted, 1e-12)
        occurs = true > 0
        found: np.ndarray = (f1 * occurs).sum(axis=-1) / np.maximum(occurs.sum(axis=-1), 1)
        return found

    def pooled(self, statistics: np.ndarray, truth: Truth) -> dict[str, float]:
        predicted = self._predicted(statistics, truth)
        return classification_report(
            truth.labels.astype(int) if truth.multi_label else truth.labels.argmax(axis=1),
            statistics / PARTS,
            list(truth.names),
            multi_label=truth.multi_label,
            predicted=predicted.astype(int) if truth.multi_label else predicted.argmax(axis=1),
        ).summary()

    def baselines(
        self, settings: Any, corpus: Any, records: Mapping[str, Records], truth: Mapping[str, Truth]
    ) -> dict[str, dict[str, np.ndarray]]:
        from ..intent.dataset import make_targets

        rows = split_rows(corpus, holdout=settings.holdout, seed=settings.split_seed)
        targets = make_targets(rows[TRAIN], corpus.labels, corpus.multi_label)
        by_id = {row["id"]: row for name, split in rows.items() if name != TRAIN for row in split}
        found: dict[str, dict[str, np.ndarray]] = {}
        shape = {"num_labels": len(corpus.labels), "multi_label": corpus.multi_label}
        known = describe(rows[TRAIN])
        tested = {name: describe([by_id[each] for each in part.ids]) for name, part in truth.items()}
        for baseline in (
            MajorityBaseline(targets, **shape),
            WordBaseline(known, targets, **shape),
            TextRegression(known, targets, **shape),
        ):
            for name, described in tested.items():
                scores, predicted = baseline.predict(described)
                parts = in_parts(scores)
                if corpus.multi_label:  # what is answered is not always what scores at least a half
                    half = PARTS // 2
                    parts = np.where(predicted != 0, np.maximum(parts, half), np.minimum(parts, half - 1))
                found.setdefault(baseline.name, {})[name] = parts
        return found

    @staticmethod
    def _predicted(statistics: np.ndarray, truth: Truth) -> np.ndarray:
        if truth.multi_label:
            return statistics * 2 >= PARTS
        predicted: np.ndarray = np.eye(statistics.shape[1], dtype=bool)[statistics.argmax(axis=1)]
        return predicted


class ReviseCounts(Counts):
    """What SARI sums over the corpus, 36 numbers, and what the revision changed (see ``edit_counts``), which earlier
    releases did not keep.
    """

    _sari = 4 * 3 * 3

    def widths(self, truth: Truth) -> Collection[int]:
        return self._sari + NUMBERS, self._sari

    def statistics(self, records: Records, truth: Truth) -> np.ndarray:
        return self._of(records, [record["prediction"] for record in records])

    def counts(self, statistics: np.ndarray, truth: Truth) -> np.ndarray:
        return statistics[:, : self._sari].astype(np.float64)

    def quality(self, sums: np.ndarray) -> np.ndarray:
        found: np.ndarray = sari_parts(sums.reshape(*sums.shape[:-1], 4, 3, 3)).mean(axis=-1)
        return found

    def pooled(self, statistics: np.ndarray, truth: Truth) -> dict[str, float]:
        sums = statistics[:, : self._sari].sum(axis=0, dtype=np.float64)
        parts = sari_parts(sums.reshape(4, 3, 3)).tolist()
        found = {"sari": float(np.mean(parts)), **dict(zip(("add", "keep", "delete"), parts, strict=True))}
        if (edits := self.edits(statistics)) is None:
            return found
        shares = {
            "edits_made": edits.edits.share_done,
            "edits_unasked": edits.edits.share_unasked,
            "invented": edits.invented_each,
            "copy_rate": edits.share_copied,
        }
        return found | {name: value for name, value in shares.items() if value is not None}

    def edits(self, statistics: np.ndarray) -> EditReport | None:
        """What the revisions changed; ``None`` where an earlier release kept them."""
        known = statistics[:, self._sari :]
        return EditReport.of_counts(known) if known.shape[1] == NUMBERS else None

    def baselines(
        self, settings: Any, corpus: Any, records: Mapping[str, Records], truth: Mapping[str, Truth]
    ) -> dict[str, dict[str, np.ndarray]]:
        from ..revise.results import COPIED

        found = {
            COPIED: {name: self._of(each, [record["source"] for record in each]) for name, each in records.items()}
        }
        for name, each in records.items():
            for other in each[0].get("others", ()):
                written = [record["others"][other] for record in each]
                found.setdefault(other, {})[name] = self._of(each, written)
        return found

    @staticmethod
    def _of(records: Records, written: Sequence[str]) -> np.ndarray:
        sources, references = ([record[key] for record in records] for key in ("source", "references"))
        words = sari_counts(sources, list(written), references).reshape(len(written), -1).astype(np.int64)
        return np.concatenate([words, edit_counts(sources, list(written), references)], axis=1)
