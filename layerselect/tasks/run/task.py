"""What a task is to the runner (:mod:`layerselect.tasks.run.runner`): its model and corpus, a Trainer, an evaluation,
results.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from torch import nn

from ...data import Corpus
from ...integrations.transformers import SelectorCallback
from ...models.model_card import Usage
from ...selector.selector import FastSelector
from .folder import RunFolder
from .log import RunLog
from .processes import ALONE, Processes
from .settings import TrainingSettings
from .stages import Stages
from .state_cache import RunCache
from .training import MeasuredTrainer

Config = TypeVar("Config", bound=TrainingSettings)
OnEvent = Callable[[str, dict[str, Any]], None]


class SplitResult(Protocol):
    """The results on one split."""

    split: str
    reports: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        folder: where its files are.
        splits: the results on every reported split, baselines included.
        training: steps, seconds per step, trained layers, and what else describes the training.
    """

    folder: Path
    splits: list[Any]
    training: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The run as JSON values: its folder, and what stands in its ``results.json``."""
        splits = {split.split: split.as_dict() for split in self.splits}
        return {"folder": str(self.folder), "training": self.training, "splits": splits}


@dataclass(frozen=True)
class Trained:
    """What the training has left, for the evaluation."""

    trainer: MeasuredTrainer
    selector: FastSelector
    folder: RunFolder
    state_cache: RunCache
    stages: Stages


@dataclass(frozen=True)
class Outcome:
    """What a run has come to, for the writer of its files.

    Attributes:
        results: of every reported split.
        splits: what the corpus held, by split.
        predictions: the lines of ``predictions.jsonl``.
        more: what else stands in ``results.json``, between the training and the splits.
        page: what the report shows besides what every run has.
        training: facts of the training that only now are known.
    """

    results: Sequence[SplitResult]
    splits: Mapping[str, Mapping[str, Any]]
    predictions: Iterable[Mapping[str, Any]]
    more: Mapping[str, Any] = field(default_factory=dict)
    page: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


class Task(ABC, Generic[Config]):
    """One run of a task. Its constructor reads the model, encodes the corpus and finds out whether they fit together.

    Args:
        config: the settings of the run.
        corpus: what it is trained and evaluated on.
        notify: is told what is being done.

    Raises:
        LayerSelectError: something in the corpus, the model or the settings cannot be used. Nothing was written.
    """

    #: Which command makes such runs.
    command: ClassVar[str]
    #: What is kept of an evaluation while training.
    evaluated: ClassVar[tuple[str, ...]]
    #: What :meth:`outcome` takes its time for.
    scoring: ClassVar[str]

    #: Of the run; to be set before it begins.
    processes: Processes = ALONE
    #: Of the pretrained model; the constructor sets it.
    fingerprint: str

    def __init__(self, config: Config, corpus: Corpus, notify: OnEvent) -> None:
        self.config, self.corpus, self.notify = config, corpus, notify

    @classmethod
    @abstractmethod
    def finished(cls, folder: Path) -> RunResult:
        """The result of a run that is complete, read from its folder.

        Raises:
            DamagedFile: its results are missing, or hold something else.
        """

    @property
    @abstractmethod
    def watched(self) -> str | None:
        """The split that is evaluated while training, and that chooses the checkpoint."""

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """What is trained."""

    @property
    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """How many examples each split has; the first one is trained on."""

    @property
    def steps_before(self) -> int:
        """Steps of a training that :meth:`begin` makes."""
        return 0

    @abstractmethod
    def begin(self, folder: RunFolder, stages: Stages) -> None:
        """Does what comes before the training and leaves files."""

    @abstractmethod
    def cached_lengths(self) -> list[int]:
        """The lengths, in tokens, of the examples whose hidden states the run caches, if it caches any."""

    @abstractmethod
    def trainer(self, folder: Path, log: RunLog, state_cache: RunCache) -> tuple[MeasuredTrainer, SelectorCallback]:
        """The Trainer, and the callback that holds its selector."""

    @abstractmethod
    def evaluate(self, trained: Trained) -> dict[str, Any]:
        """Evaluates the weights that were kept on every split; returns facts of the training that only now are
        known.
        """

    @abstractmethod
    def save_adapter(self, path: Path) -> None:
        """Saves what was trained."""

    @abstractmethod
    def usage(self) -> Usage:
        """How others use what was trained, for its model card."""

    @abstractmethod
    def outcome(self) -> Outcome:
        """What the run has come to."""

    @abstractmethod
    def write_report(self, path: Path, **facts: Any) -> None:
        """Writes the page of the run."""

    def result(self, folder: Path, outcome: Outcome, training: dict[str, Any]) -> RunResult:
        """The finished run, as the caller is told of it."""
        return RunResult(folder, list(outcome.results), training)
