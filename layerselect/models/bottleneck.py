"""A bottleneck adapter as a method of ``peft``: saved, loaded, disabled and listed like any other.

``peft`` has no such method (0.21), and the library that has one, ``adapters``, asks for an older ``transformers``.
Importing this module makes ``peft`` know it: do so before ``PeftModel.from_pretrained`` reads a saved one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, ClassVar

import torch
from peft import PeftConfig
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from ..errors import LayerSelectError
from ..utils.linear_kind import is_linear

PEFT_TYPE = "BOTTLENECK"
PLACEMENTS = ("serial", "parallel")


@dataclass
class BottleneckConfig(PeftConfig):
    """A small network of one hidden layer beside or behind linear maps.

    ``serial`` (Houlsby et al. 2019, arXiv 1902.00751; Pfeiffer et al. 2021, arXiv 2005.00247) works on the output of
    the map, ``parallel`` (He et al. 2022, arXiv 2110.04366) on its input; what it gives is added to the map's output.
    Its second matrix starts at zero, so training starts from the base model.

    Attributes:
        size: width of the hidden layer.
        activation: its nonlinearity, a name that ``transformers`` knows.
        placement: ``serial`` or ``parallel``.
        dropout: in front of it.
        target_modules: names or a regular expression of linear maps, see :func:`residual_writers`.
        modules_to_save: modules that train whole and are saved with the adapter.
        layers_to_transform, layers_pattern: restrict it to some layers, as in ``LoraConfig``.

    Raises:
        LayerSelectError: a value out of range.
    """

    size: int = 64
    activation: str = "gelu"
    placement: str = "serial"
    dropout: float = 0.0
    target_modules: Any = None
    exclude_modules: Any = None
    modules_to_save: list[str] | None = None
    layers_to_transform: Any = None
    layers_pattern: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PEFT_TYPE
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if self.size < 1:
            raise LayerSelectError(f"size={self.size} of the bottleneck adapter must be at least 1")
        if self.placement not in PLACEMENTS:
            raise LayerSelectError(
                f"placement={self.placement!r} of the bottleneck adapter is none of {', '.join(PLACEMENTS)}"
            )
        check_activation(self.activation)


def check_activation(name: str) -> None:
    """Checks that ``transformers`` knows a nonlinearity.

    Raises:
        LayerSelectError: it does not. The message lists what it knows.
    """
    if name not in ACT2FN:
        near = get_close_matches(name, list(ACT2FN), 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise LayerSelectError(
            f"activation={name!r} of the bottleneck adapter (--bottleneck-activation) is not one that transformers "
            f"knows: {hint}it knows "
            f"{', '.join(sorted(ACT2FN))}"
        )


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A linear map with bottleneck adapters around it."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_dropout",)

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.bottleneck_dropout = nn.ModuleDict()
        self._configs: dict[str, BottleneckConfig] = {}
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Adds an adapter with fresh weights."""
        inputs, outputs = _features(self.get_base_layer())
        self._configs[adapter_name] = config
        self.bottleneck_dropout[adapter_name] = nn.Dropout(config.dropout)
        down = nn.Linear(outputs if config.placement == "serial" else inputs, config.size)
        up = nn.Linear(config.size, outputs)
        with torch.no_grad():
            up.weight.zero_()
            up.bias.zero_()
            down.bias.zero_()
        self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name] = down, up
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        for name in self.active_adapters:
            if name not in self.bottleneck_down:
                continue
            config, down = self._configs[name], self.bottleneck_down[name]
            source = result if config.placement == "serial" else x
            hidden = down(self.bottleneck_dropout[name](source.to(down.weight.dtype)))
            result = result + self.bottleneck_up[name](ACT2FN[config.activation](hidden)).to(result.dtype)
        return result

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise LayerSelectError(
            "a bottleneck adapter cannot be merged: its nonlinearity is not a change of the base weights; keep it as "
            "an adapter"
        )

    def unmerge(self) -> None:
        """Nothing is ever merged."""


class BottleneckModel(BaseTuner):
    """Puts bottleneck adapters into a model."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: ClassVar[dict[str, Any]] = {}

    def _create_and_replace(
        self,
        peft_config: BottleneckConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: Any,
    ) -> None:
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
            return
        module = BottleneckLayer(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            module.requires_grad_(False)  # an additional adapter does not train until it is activated
        self._replace_module(parent, target_name, module, target)

    def _check_merge_allowed(self) -> None:
        raise LayerSelectError(
            "a bottleneck adapter cannot be merged into its model: keep it as an adapter, or take it off with unload()"
        )


def residual_writers(model: nn.Module, layer_names: Sequence[str]) -> list[str]:
    """The linear maps of the layers whose output goes to the residual stream: the last one of each part of a layer
    (attention, cross-attention, feed-forward) that is as wide as the stream.

    Args:
        layer_names: qualified names of the layers.

    Returns:
        Qualified names.

    Raises:
        LayerSelectError: there is none.
    """
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    width = getattr(config, "hidden_size", None)
    found = []
    for layer in layer_names:
        for part in _parts(model.get_submodule(layer)):
            linear = [
                f"{part}.{name}".rstrip(".")
                for name, module in model.get_submodule(f"{layer}.{part}").named_modules()
                if is_linear(module) and _features(module)[1] == width
            ]
            found += [f"{layer}.{name}" for name in linear[-1:]]
    if not found:
        raise LayerSelectError(
            f"the layers of {type(model).__name__} (from {layer_names[0]!r} on) hold no linear map as wide as their "
            "stream, where a bottleneck adapter would go; use --adapter lora"
        )
    return found


def _parts(layer: nn.Module, prefix: str = "") -> list[str]:
    """The direct children of a layer, those inside of lists included."""
    names = []
    for name, child in layer.named_children():
        path = f"{prefix}{name}"
        names += _parts(child, f"{path}.") if isinstance(child, nn.ModuleList) else [path]
    return names


def _features(module: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear map."""
    if isinstance(module, Conv1D):
        return module.weight.shape[0], module.weight.shape[1]
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    raise LayerSelectError(
        f"a bottleneck adapter goes to linear maps, and {type(module).__name__} is none: name others"
    )


# What peft.utils.register_peft_method does, without its check against peft's own closed list of names.
PEFT_TYPE_TO_CONFIG_MAPPING[PEFT_TYPE] = BottleneckConfig  # type: ignore[index]
PEFT_TYPE_TO_TUNER_MAPPING[PEFT_TYPE] = BottleneckModel  # type: ignore[index]
PEFT_TYPE_TO_PREFIX_MAPPING[PEFT_TYPE] = BottleneckModel.prefix  # type: ignore[index]
