"""Everything one run of the revision task depends on."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from ...errors import LayerSelectError
from ...rules import make_rule
from ..intent.config import IntentConfig
from ..run.settings import TrainingSettings, check, one_of
from .generate import GenerationConfig

TRANSFERS = ("shared", "all", "none")

#: Settings of the predictor that a run trains itself, by the name they have there.
_PREDICTOR = {
    "predictor_rule": "rule",
    "predictor_epochs": "epochs",
    "predictor_max_steps": "max_steps",
    "predictor_lr": "lr",
    "predictor_batch_size": "batch_size",
}
#: Settings that both steps share: the corpus, the model, the adapter, how gradients are measured, what is kept.
_SHARED = (
    "data",
    "model",
    "splits",
    "labels",
    "before",
    "after",
    "label",
    "doc_id",
    "label_delimiter",
    "multi",
    "strict",
    "split_seed",
    "adapter",
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "bottleneck_size",
    "dropout",
    "mode",
    "score",
    "probe_every",
    "backend",
    "state_cache",
    "cut",
    "state_cache_store",
    "state_cache_memory",
    "state_cache_precision",
    "seed",
    "device",
)

#: What suits the demo's small model, which starts from random weights: no adapter.
DEMO_DEFAULTS: dict[str, Any] = {"adapter": "none", "lr": 2e-3, "predictor_lr": 7e-4, "max_length": 64}


@dataclass(frozen=True)
class ReviseConfig(TrainingSettings):
    """One run. For what is not listed here see :class:`~layerselect.tasks.run.settings.TrainingSettings`.

    Attributes:
        predictor: the finished run of ``layerselect intent`` to transfer from; ``None`` trains one in ``OUT/predictor``
            (not with ``transfer="none"``).
        transfer: ``shared`` is Intention-Tuning: the layers that matter by the predictor's frequency G start from its
            adapters and train, the others stay as they are. ``all``: every layer starts from the predictor's adapter.
            ``none``: every layer starts fresh.
        rule: with ``shared``, how layers are picked from G, once. Otherwise, as everywhere, how they are selected by
            their gradients in each step.
        max_length: a text before or after its revision that is longer, in tokens, is cut at sentence borders.
        eval_limit: evaluate, revise and score at most so many examples of a split, drawn by ``split_seed``; ``None``:
            all.
        untrained: also score what the untrained model writes.
        beams, sample, temperature, top_p, max_new_tokens: see
        :class:`~layerselect.tasks.revise.generate.GenerationConfig`. predictor_rule, predictor_epochs,
        predictor_max_steps, predictor_lr, predictor_batch_size, predictor_max_length: of the predictor
            that the run trains itself; the rest is as in this run, or the default of ``layerselect intent``.
    """

    predictor: str | None = None
    transfer: str = "shared"
    max_length: int = 256
    batch_size: int = 8
    lr: float = 5e-4
    eval_limit: int | None = None
    untrained: bool = False
    beams: int = 1
    sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int | None = None
    predictor_rule: str = "variance"
    predictor_epochs: float = 3.0
    predictor_max_steps: int | None = None
    predictor_lr: float = 1e-3
    predictor_batch_size: int = 16
    predictor_max_length: int | None = None

    def __post_init__(self) -> None:
        one_of("transfer", self.transfer, TRANSFERS)
        check(self.max_length >= 8, "max_length", self.max_length, "must be at least 8 tokens")
        check(self.eval_limit is None or self.eval_limit >= 1, "eval_limit", self.eval_limit, "must be at least 1")
        if self.transfer == "none" and self.predictor is not None:
            raise LayerSelectError(
                f"--from {self.predictor} with --transfer none: there is nothing to take from it, leave one out"
            )
        for name in ("predictor_max_steps", "predictor_max_length"):
            value = getattr(self, name)
            check(value is None or value >= 1, name, value, "must be at least 1")
        check(self.predictor_batch_size >= 1, "predictor_batch_size", self.predictor_batch_size, "must be at least 1")
        for name in ("predictor_epochs", "predictor_lr"):
            check(0 < getattr(self, name) < math.inf, name, getattr(self, name), "must be above 0 and finite")
        try:
            make_rule(self.predictor_rule)
        except LayerSelectError as error:
            raise LayerSelectError(f"--predictor-rule: {error}") from error
        super().__post_init__()
        self.generation()
        self.predictor_config(self.out)

    @property
    def trains_predictor(self) -> bool:
        return self.transfer != "none" and self.predictor is None

    def generation(self) -> GenerationConfig:
        return GenerationConfig(
            beams=self.beams,
            sample=self.sample,
            temperature=self.temperature,
            top_p=self.top_p,
            max_new_tokens=self.max_new_tokens,
            seed=self.seed,
        )

    def predictor_config(self, out: str, model: str | None = None) -> IntentConfig:
        """The settings of the predictor that the run trains itself.

        Args:
            out: its folder.
            model: its base model, if that is not ``self.model``.
        """
        defaults = {field.name: field.default for field in fields(IntentConfig)}
        settings = {name: getattr(self, name) for name in _SHARED}
        settings.update({name: getattr(self, own) for own, name in _PREDICTOR.items()})
        settings["max_length"] = self.predictor_max_length or defaults["max_length"]
        return IntentConfig(**{**settings, "out": out, "model": model or self.model, "keep": "last"})
