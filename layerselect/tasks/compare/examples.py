"""The examples that the runs of a comparison are tested on, as it keeps them: ids, documents and labels, no text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...data import Corpus
from ...utils.folders import new_file
from ...utils.saved_files import DamagedFile, read_json
from ...utils.saved_schema import Fields, Flag, Items, Mapped, Mismatch, Text, Whole
from .counts import Records, Truth
from .methods import Run

VERSION = 1
ADVICE = "remove it and repeat the comparison's command"

_EXAMPLES = Fields(
    {
        "labels": Items(Text()),
        "multi_label": Flag(),
        "splits": Mapped(
            Fields({"ids": Items(Text(), least=1), "documents": Items(Text()), "labels": Items(Items(Whole()))})
        ),
    }
)


class KeptExamples:
    """The files of the examples of each fold.

    Args:
        folder: of what a comparison keeps.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[int | None, dict[str, Truth]] = {}  # every run of a fold is read beside them

    def of(self, fold: int | None) -> dict[str, Truth]:
        """The examples of a fold, by split.

        Raises:
            DamagedFile: they cannot be read.
        """
        if fold not in self._known:
            self._known[fold] = self._read(fold)
        return self._known[fold]

    def same(self, run: Run, records: Mapping[str, Records], corpus: Corpus) -> dict[str, Truth]:
        """The examples that a run was evaluated on, which are kept by the first run of a fold.

        Raises:
            Mismatch: they are not those of the fold's other runs.
        """
        path = path_of_fold(self._folder, "examples", run.fold)
        documents = {row["id"]: row["doc_id"] for split in corpus.splits.values() for row in split}
        content: dict[str, Any] = {
            "version": VERSION,
            "labels": corpus.labels,
            "multi_label": corpus.multi_label,
            "splits": {
                split: {
                    "ids": [record["id"] for record in several],
                    "documents": [documents[record["id"]] for record in several],
                    "labels": [[corpus.label_ids[name] for name in _labels(record)] for record in several],
                }
                for split, several in records.items()
            },
        }
        known = read_json(path, advice=ADVICE) if path.is_file() else None
        if known not in (None, content, _without_labels(content)):
            raise Mismatch(run.name, "was tested on other examples than the other runs: the corpus has changed")
        if known != content:
            self._known.pop(run.fold, None)
            write_kept(path, content)
        return self.of(run.fold)

    def _read(self, fold: int | None) -> dict[str, Truth]:
        path = path_of_fold(self._folder, "examples", fold)
        content = read_json(path, _EXAMPLES, advice=ADVICE, constants=True)
        names = content["labels"]
        found = {}
        for split, part in content["splits"].items():
            labels = np.zeros((len(part["ids"]), len(names)), dtype=bool)
            if not len(part["ids"]) == len(part["documents"]) == len(part["labels"]):
                raise DamagedFile(path, f"splits.{split} holds lists of different lengths", ADVICE)
            for row, numbers in enumerate(part["labels"]):
                if any(number >= len(names) for number in numbers):
                    raise DamagedFile(path, f"splits.{split}.labels holds a label that has no name", ADVICE)
                labels[row, numbers] = True
            found[split] = Truth(part["ids"], part["documents"], labels, names, content["multi_label"])
        return found


def path_of_fold(folder: Path, kind: str, fold: int | None) -> Path:
    """The file that keeps something of a fold; without folds there is one."""
    return folder / (f"{kind}-fold{fold}.json" if fold else f"{kind}.json")


def write_kept(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a file of what is kept, whole or not at all, with its version."""
    with new_file(path) as scratch:
        text = json.dumps({"version": VERSION, **content}, separators=(",", ":"), ensure_ascii=False)
        scratch.write_text(text + "\n", encoding="utf-8")


def _labels(record: Mapping[str, Any]) -> Sequence[str]:
    """The labels of a predictor's example, or what a writer's revision is for."""
    found: Sequence[str] = record["labels"] if "labels" in record else record.get("intentions", ())
    return found


def _without_labels(content: Mapping[str, Any]) -> dict[str, Any]:
    """The examples as earlier releases kept those of writers."""
    splits = {name: {**part, "labels": [[] for _ in part["labels"]]} for name, part in content["splits"].items()}
    return {**content, "splits": splits}
