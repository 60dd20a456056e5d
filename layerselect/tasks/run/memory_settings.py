"""The settings that decide how large a model fits on the machine: how its weights are held, and what is computed twice
to save memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import LayerSelectError
from ...models.holding import ATTENTIONS, DEVICE_MAPS, DTYPES, QUANTIZED, Holding, resolve_dtype
from ...utils.launch import is_asked
from ...utils.options import setting
from .devices import resolve_device
from .headings import MEMORY

CHECKPOINTING = ("none", "nonreentrant", "reentrant")


@dataclass(frozen=True, kw_only=True)
class MemorySettings:
    """How the model is held and computed with. What a field means is its help text."""

    dtype: str = setting(
        "auto",
        "how the pretrained weights are held; adapters and new heads are float32, under autocast; auto: bfloat16 on a "
        "GPU that has it, else float32",
        group=MEMORY,
        choices=DTYPES,
        known_as="--torch-dtype",
    )
    quantize: str = setting(
        "none",
        "hold the linear maps of the layers in 8 bits, or in 4 (nf4, its constants quantized again), by bitsandbytes; "
        "needs an adapter",
        group=MEMORY,
        choices=QUANTIZED,
    )
    gradient_checkpointing: str = setting(
        "none",
        "keep only the inputs of the layers for the backward pass and compute the rest again; both kinds come to the "
        "same, nonreentrant is the newer one",
        group=MEMORY,
        choices=CHECKPOINTING,
    )
    attention: str = setting(
        "auto",
        "how attention is computed; auto: what transformers takes for the model",
        group=MEMORY,
        choices=ATTENTIONS,
        known_as="--attn-implementation",
    )
    device_map: str = setting(
        "none",
        "auto: spread the layers over all GPUs, in one process, for a model larger than one of them",
        group=MEMORY,
        choices=DEVICE_MAPS,
    )

    fsdp: bool = setting(
        False,
        "shard the model over the processes that torchrun or accelerate launch starts (FSDP2); without it each of them "
        "holds the whole model (DDP)",
        group=MEMORY,
    )

    def holding(self) -> Holding:
        """How this machine is to hold the model.

        Raises:
            LayerSelectError: the device that is asked for is not there.
        """
        device = resolve_device(self.device)  # type: ignore[attr-defined]  # of the class that this is a part of
        return Holding(
            resolve_dtype(self.dtype, device),
            self.quantize,
            self.attention,
            device,
            self.device_map if device == "cuda" else "none",
            on_host=device == "cuda" and self.shards(),
        )

    def shards(self) -> bool:
        """Whether the run shards its model: it says so, or the configuration of ``accelerate launch`` does."""
        return self.fsdp or is_asked("ACCELERATE_USE_FSDP")

    def scales_loss(self) -> bool:
        """Whether the Trainer scales the loss, beside the model's own autocast; on a CPU it cannot."""
        holding = self.holding()
        return holding.dtype == "float16" and holding.device == "cuda"

    def check_memory(self, adapter: str) -> None:
        """Checks what makes no sense together on any machine.

        Raises:
            LayerSelectError: something does not.
        """
        if adapter != "none":
            return
        if self.quantize != "none":
            raise LayerSelectError(
                f"--quantize {self.quantize} with --adapter none: quantized weights cannot train; choose an adapter, "
                "such as lora"
            )
        if self.dtype == "float16":
            raise LayerSelectError(
                "--dtype float16 with --adapter none: AdamW's second moments are smaller than any number that float16 "
                "has; use bfloat16 or float32, or choose an adapter"
            )
