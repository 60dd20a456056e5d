"""What a comparison must know of the task whose runs it compares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..intent import IntentConfig, run_intent
from ..intent.results import ALONE, MODEL
from ..revise import ReviseConfig, run_revise
from ..revise.results import EDIT_SCORES, NOT_BETTER, SCORES
from ..run.settings import TrainingSettings
from .counts import Counts, IntentCounts, ReviseCounts
from .methods import METHODS, PAPER, PAPER_OF_TRANSFERS, TRANSFERS, Method
from .settings import INTENT_DEFAULTS

#: Key, heading, digits.
Column = tuple[str, str, int]

#: Which column is made of the evaluations while training.
STEPS_TO_95 = "steps_to_95"

#: What every task's runs cost.
COSTS: tuple[Column, ...] = (
    ("seconds_per_step", "s per step", 3),
    ("processor_seconds_per_step", "CPU s per step", 3),
    ("seconds", "s in all", 0),
    ("peak_memory_mb", "peak MB", 0),
    ("saved_mb", "saved MB", 1),
    ("step_share", "of a whole step", 2),
    ("activation_share", "of all activations", 2),
    ("optimizer_share", "of all optimizer memory", 2),
    ("trained_parameters", "trained parameters", 0),
)


@dataclass(frozen=True)
class Task:
    """One kind of runs.

    Attributes:
        name: on the command line.
        config: their settings.
        run: trains one, given its settings.
        methods: those that have a name.
        paper: those of the papers.
        quality: the columns of quality, by the keys of a split's reports; the first is the one that is tested.
        facts: more columns, by the keys of a run's ``training`` facts, or ``steps_to_95``.
        curve: key and name of what is evaluated while training.
        counts: what is kept of the predictions of a run, and how the tested quality is made of it.
        margin: differences of the tested quality below it matter to nobody, unless a comparison says otherwise.
        idle: the baseline that has learned nothing.
        baselines: what the first rows of the table are for.
        defaults: settings where neither the comparison nor the method says another.
        varied: settings that the comparison makes, besides the rule, the adapter, the seed and the place.
        later: qualities that earlier releases did not measure: what they kept has none.
        not_better: qualities of which more is not better.
    """

    name: str
    config: type[TrainingSettings]
    run: Callable[..., Any]
    methods: Mapping[str, Method]
    paper: tuple[str, ...]
    quality: tuple[Column, ...]
    facts: tuple[Column, ...]
    curve: tuple[str, str]
    counts: Counts
    margin: float
    idle: str
    baselines: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    varied: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    not_better: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[Column, ...]:
        return (*self.quality, *self.facts)

    @property
    def is_quality(self) -> frozenset[str]:
        return frozenset(key for key, _, _ in self.quality)

    @property
    def needed_quality(self) -> frozenset[str]:
        """What every release has kept of a run's quality."""
        return self.is_quality - set(self.later)

    @property
    def facts_kept(self) -> tuple[str, ...]:
        """What is kept of the facts of a run's training, all of them numbers."""
        return (*(key for key, _, _ in self.facts if key != STEPS_TO_95), "steps")

    @property
    def tested(self) -> Column:
        return self.quality[0]

    def has_setting(self, name: str) -> bool:
        return name in {each.name for each in fields(self.config)}


INTENT = Task(
    "intent",
    IntentConfig,
    run_intent,
    METHODS,
    PAPER,
    quality=(("macro_f1", "macro-F1", 3), ("macro_auprc", "macro AUPRC", 3), ("accuracy", "accuracy", 3)),
    facts=(*COSTS, (STEPS_TO_95, "steps to 95%", 0)),
    curve=("macro_f1", "macro-F1"),
    counts=IntentCounts(),
    margin=0.02,
    idle="majority class",
    baselines="A fine-tuned model below the logistic regression on removed and added words has not learned the task.",
    defaults=INTENT_DEFAULTS,
)

REVISE = Task(
    "revise",
    ReviseConfig,
    run_revise,
    {**TRANSFERS, **{name: method for name, method in METHODS.items() if name != "head"}},
    PAPER_OF_TRANSFERS,
    quality=(*SCORES, *EDIT_SCORES),
    facts=(
        ("start_loss", "first loss", 3),
        ("end_loss", "last loss", 3),
        ("alignment_ratio", "r", 2),
        ("layers_with_gradient", "layers with gradients", 1),
        ("other_text_loss", "loss on other text", 3),
        ("forgotten", "forgotten", 3),
        *COSTS,
    ),
    curve=("loss", "loss"),
    counts=ReviseCounts(),
    margin=0.5,
    idle="source copied",
    defaults={"transfer": "none"},
    varied=("transfer", "predictor", "untrained"),
    later=tuple(key for key, _, _ in EDIT_SCORES),
    not_better=NOT_BETTER,
    baselines="A model that does not beat the copied source has learned nothing that the metric sees.",
)

TASKS = {task.name: task for task in (INTENT, REVISE)}

__all__ = ["ALONE", "COSTS", "INTENT", "MODEL", "REVISE", "TASKS", "Task"]
