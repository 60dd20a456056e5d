"""What is to be planned: a model, a batch, a card, and how the model would be held."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...errors import LayerSelectError
from ...models.holding import Holding, resolve_dtype
from ...utils.options import check_values, like, setting
from ...utils.sizes import parse_bytes
from ..intent.config import IntentConfig
from ..revise.config import ReviseConfig
from ..run.adapter_settings import AdapterSettings
from ..run.headings import JOB, TRAINING
from ..run.memory_settings import CHECKPOINTING, MemorySettings
from ..run.settings import TrainingSettings
from ..run.trainer_settings import TrainerSettings, optimizer_for
from ..text.formats import TOKENS, InputFormat

ALL = "all"
_CONFIGS: dict[str, type[TrainingSettings]] = {"intent": IntentConfig, "revise": ReviseConfig}


@dataclass(frozen=True, kw_only=True)
class PlanSettings(AdapterSettings, MemorySettings):
    """What ``layerselect plan`` is asked. What a field means is its help text.

    Raises:
        LayerSelectError: a value is out of range. The message names its option.
    """

    model: str = setting(
        help="a folder with a config.json, such a file, or a hub id; weights are neither read nor needed",
        group=JOB,
        metavar="MODEL",
    )
    task: str = setting("intent", "the command that would train", group=JOB, choices=tuple(_CONFIGS))
    gpu: str | None = setting(
        None,
        "the memory of the card, such as 24GB or 80GiB; without it the plan is for this machine, and does not say what "
        "fits",
        group=JOB,
        metavar="SIZE",
    )
    speed: float | None = setting(
        None,
        "what the card computes while it trains, in 10^12 operations a second (TFLOPS), often 0.3 to 0.5 of its data "
        "sheet's; with it the table says how long a step takes",
        group=JOB,
        metavar="TFLOPS",
        above=0,
        most=1e9,
    )
    steps: int | None = setting(
        None,
        "steps of the training; with --speed the table says how long it takes",
        group=JOB,
        metavar="N",
        least=1,
    )
    device: str = like(TrainingSettings, "device", help="plan for a GPU or for a CPU; auto: as this machine, or --gpu")
    classes: int = setting(
        5, "how many intentions a classifier tells apart", group=JOB, metavar="N", least=1, most=100_000
    )
    head: str = like(IntentConfig, "head")
    format: str = like(
        IntentConfig, "format", help="what a classifier reads; without --max-length it says how many tokens"
    )
    dropout: float | None = like(TrainingSettings, "dropout")
    batch_size: int | None = like(
        TrainingSettings, "batch_size", None, help="examples at a time; without this option as the command has it"
    )
    max_length: int | None = setting(
        None,
        "tokens of each input, as --max-length of the command; without this option as the command has it",
        group=TRAINING,
        metavar="N",
        least=1,
    )
    accumulate: int = like(TrainingSettings, "accumulate")
    optim: str = like(TrainerSettings, "optim")
    quantize: str = like(
        MemorySettings,
        "quantize",
        ALL,
        help="plan for weights in 8 or 4 bits, for others (none), or for all of these",
        choices=(ALL, "none", "8bit", "4bit"),
    )
    gradient_checkpointing: str = like(
        MemorySettings,
        "gradient_checkpointing",
        ALL,
        help="plan with gradient checkpointing, without it (none), or both (all)",
        choices=(ALL, *CHECKPOINTING),
    )

    def __post_init__(self) -> None:
        check_values(self)
        self.adapter_config()
        if self.quantize != ALL:
            self.check_memory(self.adapter)
        kind, read = _CONFIGS[self.task], InputFormat(self.format)
        for name in ("batch_size", "max_length"):
            if getattr(self, name) is None:
                default = kind.__dataclass_fields__[name].default
                object.__setattr__(self, name, TOKENS[read.name] if default is None else default)
        if self.steps is not None and self.speed is None:
            raise LayerSelectError(
                f"--steps {self.steps} says nothing of time without --speed: say what the card computes in a second"
            )
        if self.gpu is not None and self.device == "cpu":
            raise LayerSelectError(f"--gpu {self.gpu} with --device cpu: leave one of them out")
        self.memory  # noqa: B018, says so where it is no size

    @classmethod
    def of(cls, config: TrainingSettings, classes: int) -> PlanSettings:
        """What the settings of a run ask for, on the machine that it runs on.

        Args:
            classes: how many intentions its corpus has.
        """
        own = config.__dataclass_fields__  # a method may have a name of ours
        shared = {name: getattr(config, name) for name in cls.__dataclass_fields__ if name in own}
        task = next(name for name, kind in _CONFIGS.items() if isinstance(config, kind))
        return cls(**{**shared, "task": task, "classes": max(1, classes)})

    @property
    def memory(self) -> int | None:
        """The bytes of the card, if one is named.

        Raises:
            LayerSelectError: it is no size.
        """
        if self.gpu is None:
            return None
        return parse_bytes(self.gpu, "--gpu")

    @property
    def writes(self) -> bool:
        return self.task == "revise" or self.head == "generate"

    @property
    def optimizer(self) -> str:
        """Its name in ``transformers``."""
        return optimizer_for(self.optim, self.holding().device)

    def holding(self) -> Holding:
        """How the model would be held; the GPU need not be in this machine."""
        there = self.gpu is not None or self.device == "cuda"
        device = "cuda" if there or (self.device == "auto" and torch.cuda.is_available()) else "cpu"
        dtype = "bfloat16" if there and self.dtype == "auto" else resolve_dtype(self.dtype, device)
        return Holding(dtype, "none", self.attention, device)
