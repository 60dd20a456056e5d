"""The settings that go to the Trainer as they are: optimizer, loading of batches, and who is told of the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import LayerSelectError
from ...utils.options import setting
from .headings import REPORTING, TRAINING


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """What the Trainer does beside the training itself. What a field means is its help text."""

    optim: str = setting(
        "auto",
        "optimizer, by the name that transformers has for it, such as adamw_torch, adafactor, or (by bitsandbytes) "
        "lion_32bit, adamw_8bit, paged_adamw_8bit; auto: AdamW, fused on a GPU",
        group=TRAINING,
        metavar="NAME",
    )
    eval_batch_size: int | None = setting(
        None,
        "examples at a time where nothing trains; without this option twice --batch-size",
        group=TRAINING,
        metavar="N",
        least=1,
        known_as="--per-device-eval-batch-size",
    )
    workers: int = setting(
        0,
        "processes that make batches beside the training",
        group=TRAINING,
        metavar="N",
        least=0,
        known_as="--dataloader-num-workers",
    )
    report_to: str = setting(
        "none",
        "what else keeps the losses: tensorboard, wandb, mlflow, or another that the Trainer knows; several are "
        "separated by commas; all: what is installed",
        group=REPORTING,
        metavar="NAME,...",
    )
    push_to_hub: bool = setting(
        False,
        "put the finished adapter, with its card, on the model hub; log in first ('hf auth login')",
        group=REPORTING,
    )
    hub_model_id: str | None = setting(
        None,
        "where --push-to-hub puts it; without this option under the name of --out",
        group=REPORTING,
        metavar="ORG/NAME",
    )

    @property
    def eval_batch(self) -> int:
        """Examples at a time where nothing trains."""
        return self.eval_batch_size or 2 * self.batch_size  # type: ignore[attr-defined]  # of the whole class

    def reports(self) -> list[str]:
        """The names that ``report_to`` holds; none where nobody is told."""
        return [] if self.report_to == "none" else [name.strip() for name in self.report_to.split(",")]

    def check_trainer(self) -> None:
        """Checks the spelling of lists.

        Raises:
            LayerSelectError: a name is empty, or another one stands beside ``none`` or ``all``.
        """
        names = self.reports()
        alone = {"none", "all"} & set(names)
        if not all(names) or (alone and len(names) > 1):
            raise LayerSelectError(
                f"--report-to {self.report_to!r} is no list of names: write none, all, or names such as "
                "tensorboard,wandb"
            )

    def trainer_arguments(self, device: str) -> dict[str, Any]:
        """What ``TrainingArguments`` is given.

        Args:
            device: ``cpu`` or ``cuda``.
        """
        return {
            "per_device_eval_batch_size": self.eval_batch,
            "optim": optimizer_for(self.optim, device),
            "report_to": self.reports() or "none",
            "dataloader_num_workers": self.workers,
            "dataloader_persistent_workers": self.workers > 0,
            "dataloader_pin_memory": device == "cuda",
        }


def optimizer_for(name: str, device: str) -> str:
    """``auto`` is AdamW, in one kernel on a GPU."""
    if name != "auto":
        return name
    return "adamw_torch_fused" if device == "cuda" else "adamw_torch"
