"""What a comparison is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...errors import LayerSelectError
from ...models.demo import SOURCE as DEMO
from ..intent import IntentConfig
from ..revise import ReviseConfig
from ..run.settings import OF_CACHE, PLACES, TrainingSettings, option
from .methods import Method, Run, Variant, parse_variants
from .settings import CompareSettings
from .tasks import TASKS, Task

#: Settings that a comparison makes.
VARIED = ("rule", "budget", "placement", "adapter", "seed", "out", "fold")

#: The name of the rows whose runs others start from; they are in no table.
PREDICTOR = "predictor"


@dataclass(frozen=True, kw_only=True)
class CompareConfig(CompareSettings):
    """Methods x seeds on one corpus and model; see also :class:`~layerselect.tasks.compare.settings.CompareSettings`.

    Attributes:
        out: the folder of the comparison; what is finished in it is kept.
        base: the settings that all runs share, as for :class:`~layerselect.tasks.intent.IntentConfig` or
            :class:`~layerselect.tasks.revise.ReviseConfig`.
        methods, adapters: see :func:`~layerselect.tasks.compare.methods.parse_variants`.
        adapter_lr: learning rates of adapters that need another one than ``base`` gives, by the adapter's name.

    Raises:
        LayerSelectError: a value out of range, a setting that the task does not have or that the comparison itself
            makes, or an unknown method.
    """

    out: str
    base: Mapping[str, Any]
    methods: tuple[str, ...]
    adapters: tuple[str, ...] = ("lora",)
    adapter_lr: Mapping[str, float] = field(default_factory=dict)
    variants: list[Variant] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("data", "model"):
            if name not in self.base:
                raise LayerSelectError(f"{option(name)} is missing in the settings of the comparison: give it")
        for name in self.base:
            if name in (*VARIED, *self.kind.varied):
                raise LayerSelectError(f"{option(name)} is what a comparison varies: leave it out")
            if not self.kind.has_setting(name):
                raise LayerSelectError(f"{option(name)} is no option of --task {self.task}: leave it out")
        object.__setattr__(
            self, "variants", parse_variants(self.methods, self.adapters, self.kind.methods, self.kind.paper)
        )
        if self.reference is not None and self.reference_variant is None:
            raise LayerSelectError(f"--reference {self.reference} is none of the compared methods")
        unused = sorted(set(self.adapter_lr) - {variant.adapter for variant in self.variants})
        if unused:
            raise LayerSelectError(
                f"--adapter-lr {unused[0]}={self.adapter_lr[unused[0]]}: no compared row has this adapter"
            )
        for variant in self.variants:
            lacking = next((name for name in variant.own if not self.kind.has_setting(name)), None)
            if lacking is not None:
                raise LayerSelectError(
                    f"--methods: {variant.name} has a setting of its own for {option(lacking)}, which --task "
                    f"{self.task} has not: leave it out"
                )
            if variant.method.transfers and self.base["model"] == DEMO:
                raise LayerSelectError(
                    f"--methods: {variant.name} starts from a predictor of the same model, and with --model demo each "
                    "run makes one of its own: give a model folder, or use 'layerselect revise', which trains both"
                )
        # Every run's settings are checked before the first one runs.
        for variant in self.variants:
            self.settings(Run(variant, 0, 1 if self.folds else None), self.out)

    @property
    def kind(self) -> Task:
        """What is known of the task."""
        return TASKS[self.task]

    @property
    def within(self) -> float:
        """The margin within which two rows are as good."""
        return self.kind.margin if self.margin is None else self.margin

    @property
    def reference_variant(self) -> Variant | None:
        """The row that the others are tested against."""
        if self.reference is None:
            rows = sorted(self.variants, key=lambda row: bool(row.own))  # the plain one first
            return next((row for row in rows if row.method.name == "all"), self.variants[0])
        names = (self.reference, f"{self.reference}/{self.adapters[0]}")
        return next((v for v in self.variants if v.name in names), None)

    def runs(self) -> list[Run]:
        """The runs of all rows, in the order in which they are trained.

        Seeds stand in the outer loop and folds within, so that what else the machine does weighs on all rows alike,
        and an interrupted comparison has all rows of what is finished.
        """
        return [Run(variant, *part) for part in self._parts() for variant in self.variants]

    def predictor_runs(self) -> list[Run]:
        """The runs that those of some rows start from."""
        return [Run(variant, *part) for part in self._parts() for variant in self.predictors()]

    def _parts(self) -> list[tuple[int, int | None]]:
        folds = range(1, self.folds + 1) if self.folds else (None,)
        return [(seed, fold) for seed in range(self.seeds) for fold in folds]

    def settings(self, run: Run, out: str, predictor: str | None = None) -> TrainingSettings:
        """The settings of one run.

        Args:
            predictor: the folder of the predictor's run, for methods that start from one.
        """
        variant = run.variant
        own: dict[str, Any] = {**variant.settings, "seed": run.seed}
        if run.fold is not None:
            own["fold"] = f"{run.fold}/{self.folds}"
        if variant.adapter in self.adapter_lr:
            own["lr"] = self.adapter_lr[variant.adapter]
        if variant.method.transfers:
            own["predictor"] = predictor
        if "untrained" in self.kind.varied:
            # The untrained model is the same whatever trains, and its shots are the same for all seeds.
            own["untrained"] = (variant, run.seed) == (self.variants[0], 0)
            if not own["untrained"]:
                own["shots"] = 0
        shared = {**self.kind.defaults, **self.base}
        if not _caches({**shared, **own}) and any(_caches(each.settings) for each in self.variants):
            shared = {name: value for name, value in shared.items() if name not in OF_CACHE}  # said for those that do
        return self.kind.config(**{**shared, **own, "out": out})

    def common_settings(self, fold: int | None) -> TrainingSettings:
        """What all runs of a fold share: those of the first row without what makes the row."""
        return self.settings(Run(self.variants[0].plain, 0, fold), self.out)

    def predictors(self) -> list[Variant]:
        """The predictors that some rows start from, one for each of their adapters."""
        adapters = dict.fromkeys(variant.adapter for variant in self.variants if variant.method.transfers)
        return [
            Variant(Method(PREDICTOR, {}, "trained once for the rows that start from it"), each) for each in adapters
        ]

    def predictor_of(self, run: Run) -> Run | None:
        """The run that ``run`` starts from, if its method starts from one."""
        if not run.variant.method.transfers:
            return None
        return next(
            each
            for each in self.predictor_runs()
            if (each.variant.adapter, each.seed, each.fold) == (run.variant.adapter, run.seed, run.fold)
        )

    def predictor_settings(self, predictor: Run, out: str) -> IntentConfig:
        """The settings of a predictor's run: those that a run which trains its own would give it."""
        row = next(v for v in self.variants if v.method.transfers and v.adapter == predictor.variant.adapter)
        settings = self.settings(replace(predictor, variant=row), out)
        assert isinstance(settings, ReviseConfig)
        return settings.predictor_config(out)

    def fixed(self) -> dict[str, Any]:
        """What must be the same when a comparison is taken up again; methods and seeds may be added."""
        settings = {**self.base, **({"adapter_lr": dict(self.adapter_lr)} if self.adapter_lr else {})}
        if self.folds:
            settings["folds"] = self.folds
        if self.task != "intent":
            settings["task"] = self.task
        return {name: value for name, value in sorted(settings.items()) if name not in PLACES}


def _caches(settings: Mapping[str, Any]) -> bool:
    """Whether these settings have hidden states cached."""
    return bool(settings.get("state_cache", "none") != "none")
