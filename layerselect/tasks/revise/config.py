"""Everything one run of the revision task depends on."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ...errors import LayerSelectError
from ...rules import make_rule
from ...utils.options import flag_of, like, setting
from ..intent.config import IntentConfig
from ..run.adapter_settings import AdapterSettings
from ..run.budget import BY_BUDGET
from ..run.headings import PREDICTOR, READS, TRAINING, WRITING
from ..run.memory_settings import MemorySettings
from ..run.settings import NO_CACHE, TrainingSettings
from .generation import GenerationConfig

#: Settings of the predictor that a run trains itself, by the name they have there.
_PREDICTOR = {
    "predictor_rule": "rule",
    "predictor_epochs": "epochs",
    "predictor_max_steps": "max_steps",
    "predictor_lr": "lr",
    "predictor_batch_size": "batch_size",
    "predictor_max_length": "max_length",
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
    *(field.name for kind in (AdapterSettings, MemorySettings) for field in fields(kind)),
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
    "eval_limit",
    "optim",
    "workers",
    "report_to",
    "seed",
    "device",
)

#: So many tokens of the text of ``--forgetting`` are read.
MOST_OTHER_TOKENS = 10_000

#: What suits the demo's small model, which starts from random weights: no adapter.
DEMO_DEFAULTS: dict[str, Any] = {"adapter": "none", "lr": 2e-3, "predictor_lr": 7e-4, "max_length": 64}


@dataclass(frozen=True)
class ReviseConfig(TrainingSettings):
    """One run. ``transfer="shared"`` is Intention-Tuning: the layers that matter by the predictor's frequency G start
    from its adapters and train, and the others stay as they are.

    With ``shared``, ``rule`` picks layers from G, once; otherwise it selects them by their gradients in each step.
    ``beams`` to ``max_new_tokens`` are those of :class:`~layerselect.tasks.revise.generation.GenerationConfig`. What is
    not said of the predictor is as in this run, or the default of ``layerselect intent``.

    Raises:
        LayerSelectError: a value is out of range. The message names its option.
    """

    demo_defaults = DEMO_DEFAULTS
    measured_besides = ("untrained", "shots", "forgetting")

    rule: str = like(
        TrainingSettings,
        "rule",
        help="with --transfer shared, how layers are picked, once, from how often the predictor selected each: "
        "variance, topk:k=4, fraction:p=0.5, and so on. Otherwise how they are selected in every step, as for "
        "'layerselect intent'",
    )
    batch_size: int = like(TrainingSettings, "batch_size", 8)
    lr: float = like(TrainingSettings, "lr", 5e-4)
    max_length: int = setting(
        256,
        "texts that are longer, in tokens, before or after their revision, are cut at sentence borders; how many is "
        "said",
        group=READS,
        metavar="N",
        least=8,
    )
    predictor: str | None = setting(
        None,
        "a finished run of 'layerselect intent' on the same model; without it a predictor is trained first",
        group=PREDICTOR,
        metavar="DIR",
        flag="--from",
    )
    transfer: str = setting(
        "shared",
        "shared: the layers that matter start from the predictor's adapters and train, the others stay as they are; "
        "all: every layer starts from them; none: no predictor",
        group=PREDICTOR,
        choices=("shared", "all", "none"),
    )
    predictor_rule: str = setting(
        "variance", "how the layers of the predictor are selected", group=PREDICTOR, metavar="RULE"
    )
    predictor_epochs: float = setting(3.0, "length of its training", group=PREDICTOR, metavar="N", above=0)
    predictor_max_steps: int | None = setting(
        None, "stop its training after N steps", group=PREDICTOR, metavar="N", least=1
    )
    predictor_lr: float = setting(1e-3, "its learning rate", group=PREDICTOR, metavar="X", above=0)
    predictor_batch_size: int = setting(
        16, "its examples at a time, in each process", group=PREDICTOR, metavar="N", least=1
    )
    predictor_max_length: int | None = setting(
        None,
        "its inputs are cut, in tokens (default: as 'layerselect intent')",
        group=PREDICTOR,
        metavar="N",
        least=1,
    )
    edit_weight: float = setting(
        1.0,
        "how much a token counts in the training's loss where the revision changes the source; a copied one counts 1",
        group=TRAINING,
        metavar="X",
        above=0,
        most=1000,
    )
    untrained: bool = setting(False, "also score what the untrained model writes", group=WRITING)
    shots: int = setting(
        0,
        "also score what the untrained model writes behind N examples of the training split: short ones, the same for "
        "all texts, drawn by --split-seed",
        group=WRITING,
        metavar="N",
        least=0,
        most=256,
    )
    forgetting: str | None = setting(
        None,
        "a text file that is not of the corpus: say what its tokens cost the language model before the training and "
        f"after it (mean loss in windows of --max-length tokens; at most {MOST_OTHER_TOKENS:,} tokens are read)",
        group=WRITING,
        metavar="FILE",
    )
    beams: int = like(GenerationConfig, "beams")
    sample: bool = like(GenerationConfig, "sample")
    temperature: float = like(GenerationConfig, "temperature")
    top_p: float = like(GenerationConfig, "top_p")
    max_new_tokens: int | None = like(GenerationConfig, "max_new_tokens")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.transfer == "none" and self.predictor is not None:
            raise LayerSelectError(
                f"--from {self.predictor} with --transfer none: there is nothing to take from it, leave one out"
            )
        try:
            make_rule(self.predictor_rule)
        except LayerSelectError as error:
            raise LayerSelectError(f"--predictor-rule: {error}") from error
        self.generation()
        self.predictor_config(self.out)

    def without_effect(self) -> list[str]:
        if self.transfer == "none":
            reason = "--transfer none"
        else:
            reason = f"--from {self.predictor}" if self.predictor is not None else ""
        names = [f.name for f in fields(self) if f.name.startswith("predictor_")]
        return [*super().without_effect(), *self._changed(dict.fromkeys(names, reason))]

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

    def predictor_flags(self) -> dict[str, str]:
        """The options for the settings of the predictor that the run trains itself."""
        own = {name: flag_of(ReviseConfig, name) for name in _SHARED}
        return own | {name: flag_of(ReviseConfig, ours) for ours, name in _PREDICTOR.items()}

    def predictor_config(self, out: str, model: str | None = None) -> IntentConfig:
        """The settings of the predictor that the run trains itself.

        Args:
            out: its folder.
            model: its base model, if that is not ``self.model``.
        """
        settings = {name: getattr(self, name) for name in _SHARED}
        settings.update({name: getattr(self, own) for own, name in _PREDICTOR.items()})
        if settings["state_cache"] == BY_BUDGET:  # the budget is the generator's
            settings |= NO_CACHE
        return IntentConfig(**{**settings, "out": out, "model": model or self.model, "keep": "last"})

    def predictor_steps(self, examples: int) -> int:
        """How many steps the training of a predictor has that comes first; 0: there is none."""
        return self.predictor_config(self.out).steps(examples) if self.trains_predictor else 0
