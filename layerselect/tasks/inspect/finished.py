"""Reads a finished run: its results, what became of each layer, and the examples that it got wrong with their texts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import LayerSelectError
from ...utils.saved_files import read_json, read_json_lines, read_tensors
from ...utils.saved_schema import Both, Fields, Items, Mapped, Number, Text
from ...utils.saved_tensors import Numbers
from ...utils.user_paths import user_path
from ..intent.config import IntentConfig
from ..intent.task import IntentTask
from ..revise.task import ReviseTask
from ..run.folder import HISTORY, IMPORTANCE, PREDICTIONS
from ..run.task import RunResult, Task

logger = logging.getLogger(__name__)

_ADVICE = "train again"
_CONFIG = Fields({"command": Text(), "settings": Mapped(), "corpus": Mapped(), "versions": Mapped()})
_NAMES = Fields({"layer_names": Items(Text(), least=1)})
_WORDS = Items(Text())
#: Lines of ``predictions.jsonl``, by task.
_LINES = {
    "intent": Fields(
        {"id": Text(), "split": Text(), "labels": _WORDS, "predicted": _WORDS, "scores": Mapped(Number())}
    ),
    "revise": Fields(
        {
            "id": Text(),
            "split": Text(),
            "intentions": _WORDS,
            "source": Text(),
            "references": _WORDS,
            "prediction": Text(),
            "scores": Both(Fields({"sari": Number()}), Mapped()),
        }
    ),
}
_TASKS: dict[str, type[Task[Any]]] = {kind.command: kind for kind in (IntentTask, ReviseTask)}


@dataclass(frozen=True)
class LayerFacts:
    """What became of one layer.

    Attributes:
        selected, trained: the shares of the steps in which it was selected, and selected and had a gradient.
        score: the mean of its scores, over the steps in which it had one; ``None`` if it never had.
    """

    name: str
    selected: float
    trained: float
    score: float | None


@dataclass(frozen=True)
class Finished:
    """A finished run.

    Attributes:
        task: ``intent`` or ``revise``.
        settings, corpus, versions: as ``config.json`` has them.
        result: as the command that trained it returned it.
        layers: in forward order.
    """

    folder: Path
    task: str
    settings: Mapping[str, Any]
    corpus: Mapping[str, Any]
    versions: Mapping[str, str]
    result: RunResult
    layers: list[LayerFacts]

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "folder": str(self.folder),
            "task": self.task,
            "settings": dict(self.settings),
            "corpus": dict(self.corpus),
            "versions": dict(self.versions),
            "training": self.result.training,
            "splits": {split.split: split.as_dict() for split in self.result.splits},
            "layers": [asdict(layer) for layer in self.layers],
        }


def read_finished(place: str | Path) -> Finished:
    """Reads the run in a folder.

    Raises:
        LayerSelectError: there is no finished run, or one of its files is damaged.
    """
    folder = user_path(place, "RUN")
    if not (folder / "config.json").is_file():
        partial = folder.with_name(folder.name + ".partial")
        hint = f"; an interrupted one lies in {str(partial)!r}" if partial.is_dir() else ""
        raise LayerSelectError(f"there is no finished run in {str(folder)!r}{hint}: give the --out of one")
    config = read_json(folder / "config.json", _CONFIG, advice=_ADVICE, constants=True)
    kind = _TASKS.get(config["command"])
    if kind is None:
        raise LayerSelectError(
            f"{str(folder)!r} is of {config['command'][:60]!r}: give the --out of 'layerselect intent' or 'revise'"
        )
    names = read_json(folder / IMPORTANCE, _NAMES, advice=_ADVICE)["layer_names"]
    return Finished(
        folder,
        kind.command.rpartition(" ")[2],
        config["settings"],
        config["corpus"],
        config["versions"],
        kind.finished(folder),
        _layers(folder, names),
    )


def mistakes(run: Finished, split: str, count: int) -> list[dict[str, Any]]:
    """The worst predictions of a run on a split, the worst first, each with its texts.

    Of a predictor these are wrong labels, those that it was surest of first; a row whose text is no longer in the
    corpus has none, nor has any where the corpus cannot be read. Of a generator these are the revisions with the lowest
    SARI.

    Raises:
        LayerSelectError: the run has no such split, or a file is damaged.
    """
    known = [each.split for each in run.result.splits]
    if split not in known:
        raise LayerSelectError(f"--split {split} is none of the splits of this run: {', '.join(known)}")
    every, _ = read_json_lines(run.folder / PREDICTIONS, _LINES[run.task], advice=_ADVICE)
    lines = [line for line in every if line["split"] == split]
    if run.task == "revise":
        return sorted(lines, key=lambda line: line["scores"]["sari"])[:count]
    wrong = [line for line in lines if sorted(line["labels"]) != sorted(line["predicted"])]
    wrong.sort(key=lambda line: -max((line["scores"].get(label, 0.0) for label in line["predicted"]), default=0.0))
    texts = _texts(run, split)
    return [{**line, **texts.get(line["id"], {})} for line in wrong[:count]]


def _texts(run: Finished, split: str) -> dict[str, dict[str, str]]:
    """The texts of the rows of a split, by their ids. A part that was held out is one of the training split. Where the
    corpus has gone, the run is shown without them.
    """
    try:
        corpus = IntentConfig(**run.settings).load_corpus()
    except TypeError as error:
        raise LayerSelectError(f"the settings in {str(run.folder)!r} are not those of a run: {_ADVICE}") from error
    except LayerSelectError as error:
        logger.warning("the mistakes are shown without their texts: %s", error)
        return {}
    rows = corpus.splits.get(split) or corpus.splits.get("train", [])
    return {str(row["id"]): {"before": row["before"], "after": row["after"]} for row in rows}


def _layers(folder: Path, names: list[str]) -> list[LayerFacts]:
    kind = Fields({"step": Numbers("int", (None,), low=0)})
    rows = read_tensors(folder / HISTORY, kind, advice=_ADVICE, framework="np")
    steps = len(rows["step"])
    shape = (steps, len(names))
    if any(name not in rows or rows[name].shape != shape for name in ("mask", "trained", "scores")):
        raise LayerSelectError(f"{str(folder / HISTORY)!r} is not of a run of {len(names)} layers: {_ADVICE}")
    scores = np.where(np.isfinite(rows["scores"]), rows["scores"], np.nan)
    trained = rows["mask"] & rows["trained"]
    return [
        LayerFacts(
            name,
            float(rows["mask"][:, layer].mean()) if steps else 0.0,
            float(trained[:, layer].mean()) if steps else 0.0,
            None if not steps or np.isnan(scores[:, layer]).all() else float(np.nanmean(scores[:, layer])),
        )
        for layer, name in enumerate(names)
    ]
