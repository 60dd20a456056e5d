"""The settings of the adapter: its kind and size, and the maps that it goes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...utils.options import setting
from .headings import TRAINS

if TYPE_CHECKING:
    from ...models.adapters import AdapterConfig


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """Which adapter trains. What a field means is its help text."""

    adapter: str = setting(
        "lora",
        "lora; dora; bottleneck (behind) or bottleneck-parallel (beside what a layer adds to the stream); none: the "
        "layers' own weights train",
        group=TRAINS,
        metavar="NAME",
    )
    targets: str = setting(
        "all-linear",
        "the maps inside the layers that LoRA and DoRA go to: all-linear, attention, mlp, or names such as "
        "q_proj,v_proj; several are separated by commas",
        group=TRAINS,
        metavar="NAME,...",
        known_as="--lora-target-modules",
    )
    lora_rank: int = setting(16, "rank of LoRA and DoRA", group=TRAINS, metavar="N", least=1, known_as="--lora-r")
    lora_alpha: int = setting(32, "LoRA's update is scaled by alpha / rank", group=TRAINS, metavar="N", least=1)
    lora_dropout: float = setting(0.05, "dropout in front of LoRA", group=TRAINS, metavar="P", least=0, below=1)
    bottleneck_size: int = setting(64, "hidden units of a bottleneck", group=TRAINS, metavar="N", least=1)
    bottleneck_activation: str = setting(
        "gelu",
        "nonlinearity of a bottleneck, a name that transformers knows: gelu, relu, silu, tanh, ...",
        group=TRAINS,
        metavar="NAME",
    )
    bottleneck_places: str = setting(
        "all",
        "parts of a layer that a bottleneck stands at: those of attention, the feed-forward ones (mlp), or all",
        group=TRAINS,
        choices=("all", "attention", "mlp"),
    )

    def adapter_config(self) -> AdapterConfig:
        """The adapter that the run trains."""
        from ...models.adapters import AdapterConfig  # reads transformers and peft, which a help page can do without

        return AdapterConfig(
            self.adapter,
            rank=self.lora_rank,
            alpha=self.lora_alpha,
            dropout=self.lora_dropout,
            size=self.bottleneck_size,
            activation=self.bottleneck_activation,
            places=self.bottleneck_places,
            targets=self.targets,
        )

    def adapter_without_effect(self) -> dict[str, str]:
        """For each field the option beside which it says nothing; "" where it counts."""
        other = f"--adapter {self.adapter}"
        lora = "" if self.adapter in ("lora", "dora") else other
        bottleneck = "" if self.adapter.startswith("bottleneck") else other
        return {
            "targets": lora,
            "lora_rank": lora,
            "lora_alpha": lora,
            "lora_dropout": "" if self.adapter != "none" else other,
            "bottleneck_size": bottleneck,
            "bottleneck_activation": bottleneck,
            "bottleneck_places": bottleneck,
        }
