"""How pretrained weights are held and computed with: their type, quantization, attention, and the device they stand on.

What a model is held in is asked for when it is loaded and stays with it, so that whoever runs it later need not know.
``transformers`` and ``bitsandbytes`` do the work; this module imports them when they are needed, since help pages and
checks of options read it, too.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from ..errors import LayerSelectError
from ..utils.launch import number_of
from ..utils.linear_kind import is_quantized

DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZED = ("none", "8bit", "4bit")
ATTENTIONS = ("auto", "sdpa", "eager", "flash_attention_2")
DEVICE_MAPS = ("none", "auto")

_PLACE = "_layerselect_holding"
#: Differences of logits, as a share of the largest one, up to which they are taken for rounding.
_CLOSE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 0.05}
#: Eight bits round activations, too; on a GPU one token in four bits takes another kernel than several.
_CLOSE_QUANTIZED = {"none": 0.0, "8bit": 0.1, "4bit": 1e-2}
_REPACKS = "support_avx512bf16_for_cpu"
_BITSANDBYTES = "pip install 'layerselect[quant]'"


@dataclass(frozen=True)
class Holding:
    """How a model is held.

    Attributes:
        dtype: of the pretrained weights that are not quantized: ``float32``, ``bfloat16`` or ``float16``. With 16 bits
            the model computes under autocast of that type, and what was never pretrained is held in float32.
        quantize: of the linear maps inside the layers: ``8bit``, ``4bit`` (nf4, its constants quantized again), or
            ``none``.
        attention: the implementation, by the name that ``transformers`` has for it; ``auto``: its choice.
        device: ``cpu`` or ``cuda``.
        device_map: ``auto`` spreads the layers over all GPUs, ``none`` holds them on one device.
        on_host: loading leaves the model in the host's memory, for an engine that takes parts of it to the device.
    """

    dtype: str = "float32"
    quantize: str = "none"
    attention: str = "auto"
    device: str = "cpu"
    device_map: str = "none"
    on_host: bool = False

    @property
    def torch_dtype(self) -> torch.dtype:
        return _TORCH[self.dtype]

    @property
    def close(self) -> float:
        """Differences of logits, as a share of the largest one, that are rounding."""
        return max(_CLOSE[self.dtype], _CLOSE_QUANTIZED[self.quantize])

    @property
    def place(self) -> torch.device:
        """The one device that the model stands on: of several processes each has a GPU of its own."""
        if self.device != "cuda":
            return torch.device(self.device)
        local = number_of("LOCAL_RANK")
        return torch.device("cuda", torch.cuda.current_device() if local is None else local)

    @property
    def places_itself(self) -> bool:
        """Whether loading puts the model on its devices, and nobody may move it afterwards."""
        return self.quantize != "none" or self.device_map != "none"

    def arguments(self, outside: Iterable[str] = ()) -> dict[str, Any]:
        """What ``from_pretrained`` is given.

        Args:
            outside: the qualified names of the linear maps outside of the layers, which are not quantized.
        """
        found: dict[str, Any] = {"dtype": self.torch_dtype}
        if self.attention != "auto":
            found["attn_implementation"] = self.attention
        if self.quantize != "none":
            found["quantization_config"] = self._quantization(outside)
        if self.device_map == "auto" and self.device == "cuda":
            found["device_map"] = "auto"
        elif self.quantize != "none":
            found["device_map"] = {"": self.place}
        return found

    def _quantization(self, outside: Iterable[str]) -> Any:
        from transformers import BitsAndBytesConfig

        quiet_bitsandbytes()
        # A pattern that nothing but the whole name matches: transformers also takes names for ends of longer ones.
        options: dict[str, Any] = {
            "llm_int8_skip_modules": [f"{re.escape(name)}(?!.)" for name in outside] or [_NOTHING]
        }
        if self.quantize == "8bit":
            return BitsAndBytesConfig(load_in_8bit=True, **options)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=self.torch_dtype,
            **options,
        )


_TORCH = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_NOTHING = "(?!)"
_PLAIN = Holding()


def resolve_dtype(name: str, device: str) -> str:
    """``auto`` is bfloat16 on a GPU that has it, and float32 elsewhere."""
    if name != "auto":
        return name
    return "bfloat16" if device == "cuda" and has_bfloat16() else "float32"


def has_bfloat16() -> bool:
    """Whether the GPU computes in bfloat16 by itself."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def check_holding(holding: Holding) -> None:
    """Finds out before anything is loaded whether this machine can hold a model so.

    Raises:
        LayerSelectError: a package is missing, or the device cannot do it.
    """
    if holding.dtype == "bfloat16" and holding.device == "cuda" and not has_bfloat16():
        raise LayerSelectError(
            f"--dtype bfloat16: the GPU {torch.cuda.get_device_name(0)!r} does not compute in bfloat16; use --dtype "
            "float16 or float32"
        )
    if holding.quantize != "none" and not is_installed("bitsandbytes"):
        raise LayerSelectError(
            f"--quantize {holding.quantize} needs the package bitsandbytes, which is not installed: {_BITSANDBYTES}, "
            "or use --quantize none"
        )
    if holding.attention == "flash_attention_2":
        _check_flash_attention(holding)


def check_unquantized(config: Any, holding: Holding, name: str) -> None:
    """Checks that a checkpoint that is to be quantized is not quantized yet.

    Raises:
        LayerSelectError: it is.
    """
    if holding.quantize != "none" and getattr(config, "quantization_config", None):
        raise LayerSelectError(
            f"--quantize {holding.quantize}: the weights of {name!r} are quantized already: leave it out, or take the "
            "checkpoint that they were made of"
        )


def _check_flash_attention(holding: Holding) -> None:
    if not is_installed("flash_attn"):
        raise LayerSelectError(
            "--attention flash_attention_2 needs the package flash-attn, which is not installed: pip install "
            "flash-attn --no-build-isolation, or use --attention sdpa"
        )
    if holding.device != "cuda":
        raise LayerSelectError("--attention flash_attention_2 runs on a GPU only: use --attention sdpa")
    if holding.dtype == "float32":
        raise LayerSelectError(
            "--attention flash_attention_2 computes in 16 bits only: use --dtype bfloat16 or float16, or --attention "
            "sdpa"
        )


def is_installed(package: str) -> bool:
    """Whether a package can be imported; it is not imported."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # of a package that is in pieces
        return False


def quiet_bitsandbytes() -> None:
    """Without its line, in every pass, about the type that 8-bit maps compute in."""
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def _without_repacking(model: nn.Module) -> None:
    """On some CPUs ``bitsandbytes`` (0.50) packs 4-bit weights anew in the first evaluation: its constants are rounded
    again, only some sizes can be packed, and what is packed so gives no gradients afterwards.
    """
    for module in model.modules():
        if hasattr(module, _REPACKS):
            setattr(module, _REPACKS, False)


def keep_holding(model: nn.Module, holding: Holding) -> None:
    """Notes with a model that was just loaded how it is held."""
    _without_repacking(model)
    setattr(model, _PLACE, holding)


def holding_of(model: nn.Module) -> Holding:
    """How a base model (or one that it is a copy of) is held; float32 where nobody has said."""
    found = getattr(model, _PLACE, None)
    return found if isinstance(found, Holding) else _PLAIN


def computing(base: nn.Module) -> AbstractContextManager[Any]:
    """The precision in which a base model computes: autocast to the type that its weights are held in, if that has 16
    bits. Passes that are recomputed for their gradients find the same one.
    """
    holding = holding_of(base)
    if holding.dtype == "float32":
        return nullcontext()
    return torch.autocast(device_of(base).type, dtype=holding.torch_dtype)


def device_of(model: nn.Module) -> torch.device:
    """The device that a model reads its tokens on."""
    table = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    parameters = model.parameters() if table is None else table.parameters()
    found = next(iter(parameters), None)
    return found.device if found is not None else next(model.parameters()).device


def on_device(batch: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """A batch on the device that the model reads its tokens on."""
    device = device_of(model)
    return {name: value.to(device) for name, value in batch.items()}


def check_quantized(model: nn.Module, holding: Holding, source: str) -> None:
    """Checks that a model that was to be quantized is: some architectures have linear maps of a class of their own,
    which ``transformers`` leaves alone.

    Raises:
        LayerSelectError: none of its maps is.
    """
    if holding.quantize != "none" and not any(is_quantized(module) for module in model.modules()):
        raise LayerSelectError(
            f"--quantize {holding.quantize}: transformers quantizes no linear map of {source} ({type(model).__name__})"
            "; use --quantize none with --dtype bfloat16"
        )


def check_placed(model: nn.Module, source: str) -> None:
    """Checks that all of a model that was spread over devices can train.

    Raises:
        LayerSelectError: a part stands on the disk, or beside GPUs on the CPU.
    """
    places = {str(place) for place in (getattr(model, "hf_device_map", None) or {}).values()}
    if "disk" in places or ("cpu" in places and len(places) > 1):
        raise LayerSelectError(
            f"{source} does not fit on the GPUs of this machine: --device-map auto would leave layers on the "
            f"{'disk' if 'disk' in places else 'CPU'}, where they cannot train; use --quantize 4bit, --dtype bfloat16 "
            "or a smaller model"
        )
