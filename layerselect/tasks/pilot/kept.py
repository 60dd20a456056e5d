"""What a pilot keeps of its finished trainings, so that a killed one goes on: numbers by document, and no text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...placement.candidates import Candidate
from ...placement.race import Trial
from ...utils.saved_files import DamagedFile, read_json
from ...utils.saved_schema import Fields, Items, Number, Text, Whole
from ..compare.examples import write_kept
from ..compare.methods import as_file_name
from .names import Scouted

KEPT = "kept"
_VERSION = 1
_ADVICE = "remove it and repeat the command"
_TRIAL = Fields(
    {
        "version": Whole(_VERSION, _VERSION),
        "layers": Items(Whole()),
        "documents": Items(Text(), least=1),
        "counts": Items(Items(Number())),
    }
)
_SCOUTED = Fields({"version": Whole(_VERSION, _VERSION), "selected": Items(Number()), "norms": Items(Number())})


class KeptTrials:
    """The files of a pilot's finished trainings.

    Args:
        folder: of the pilot.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / KEPT
        self._folder.mkdir(parents=True, exist_ok=True)

    @property
    def holds_some(self) -> bool:
        """Whether a training is kept."""
        return any(self._folder.glob("*.json"))

    def scouted(self, scout: Callable[[], Scouted]) -> Scouted:
        """What the first training told; it is made where it is not kept."""
        path = self._folder / "first.json"
        if not path.is_file():
            found = scout()
            write_kept(path, {"selected": list(found.selected), "norms": list(found.norms)})
        content = read_json(path, _SCOUTED, advice=_ADVICE)
        return Scouted(content["selected"], content["norms"])

    def trial(self, candidate: Candidate, seed: int, fold: int, train: Callable[[], Trial]) -> Trial:
        """What a training came to; it is made where it is not kept.

        Raises:
            DamagedFile: the file holds something else.
        """
        path = self._folder / f"{as_file_name(candidate.name)}-seed{seed}-fold{fold}.json"
        if not path.is_file():
            made = train()
            content = {"documents": list(made.documents), "counts": made.counts.tolist()}
            write_kept(path, {"layers": list(candidate.layers), **content})
        content = read_json(path, _TRIAL, advice=_ADVICE)
        if content["layers"] != list(candidate.layers):
            raise DamagedFile(path, "layers are those of another candidate", _ADVICE)
        if len({len(row) for row in content["counts"]}) != 1 or len(content["counts"]) != len(content["documents"]):
            raise DamagedFile(path, "counts does not hold one row for each document", _ADVICE)
        return Trial(tuple(content["documents"]), np.array(content["counts"], dtype=np.float64))
