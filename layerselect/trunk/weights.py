"""What the layers below a cut compute with: told apart by a fingerprint, and watched for changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LayerSelectError

#: Of an adapter, the part that starts at zero, by the part in front of it: while it is zero, the adapter adds nothing.
_ADDS_NOTHING_WHILE_ZERO = {
    "lora_A": "lora_B", "lora_embedding_A": "lora_embedding_B", "bottleneck_down": "bottleneck_up",
}  # fmt: skip
#: Of a model's configuration, what says nothing about its layers: a classifier and a language model share theirs.
_NOT_OF_LAYERS = {
    "architectures", "id2label", "label2id", "num_labels", "problem_type", "_name_or_path", "transformers_version", "dtype",
    "torch_dtype", "use_cache", "pad_token_id", "bos_token_id", "eos_token_id", "return_dict", "name_or_path",
}  # fmt: skip


class TrunkWeights:
    """The weights and buffers of the blocks below a cut, and of the modules outside the blocks that run before it.

    Args:
        model: where they stand, for names and configuration.
        blocks: the blocks below the cut, in forward order.
        outside: the other modules that run before the cut, in the order in which they do.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[nn.Module], outside: Sequence[nn.Module]) -> None:
        self._model = model
        in_blocks = {id(module): module for block in blocks for module in block.modules()}
        self._modules = [*(m for m in outside if id(m) not in in_blocks), *in_blocks.values()]
        self._tensors: list[Tensor] = []
        self._seen = self._state()
        self._sums = [_sum(tensor) for tensor in self._tensors]
        self._next = 0

    def check_frozen(self) -> None:
        """
        Raises:
            LayerSelectError: one of the weights trains.
        """
        for tensor in self._tensors:
            if tensor.requires_grad:
                names = {id(parameter): name for name, parameter in self._model.named_parameters()}
                raise LayerSelectError(
                    f"{names.get(id(tensor), 'a weight')} trains and stands below the cut, so hidden states would be out of date at "
                    "once: freeze it, or train with trunk='none'"
                )

    def changed(self) -> bool:
        """Whether one of the tensors was written to, replaced or moved, or trains now and did not. Waits for no device.

        Writing to ``tensor.data`` escapes torch's count of writes. So each call on the CPU also looks at the contents of one tensor,
        one after the other.
        """
        before, self._seen = self._seen, self._state()
        if before != self._seen:
            return True
        if not self._tensors:
            return False
        self._next = (self._next + 1) % len(self._tensors)
        return _sum(self._tensors[self._next]) != self._sums[self._next]

    def fingerprint(self, facts: dict[str, Any]) -> str:
        """SHA-256, in hexadecimal digits, over every number of every tensor, the kinds of the modules, the configuration of the model
        and ``facts``. Adapters that add nothing do not count: with and without them the layers are the base model.
        """
        digest = hashlib.sha256()
        digest.update(json.dumps([_configuration(self._model), facts], sort_keys=True, default=str).encode())
        silent = {
            id(module) for module in self._modules for part in _silent_adapters(module) for module in part.modules()
        }
        for module in self._modules:
            if id(module) in silent:
                continue
            if not list(module.children()) and _computes(module):
                digest.update(f"{type(module).__name__}({module.extra_repr()})\n".encode())
            for name, tensor in _own_tensors(module):
                digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
                digest.update(_bytes(tensor))
        return digest.hexdigest()

    def _state(self) -> list[tuple[int, int, int, bool]]:
        """As it is now: the tensors are looked up anew, since another one may stand where one stood."""
        self._tensors = [tensor for module in self._modules for _, tensor in _own_tensors(module)]
        return [(id(t), t._version, t.data_ptr(), t.requires_grad) for t in self._tensors]


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers that are the module's own, those in its parameter lists and dicts included."""
    holders = [module, *(c for c in module.children() if isinstance(c, (nn.ParameterDict, nn.ParameterList)))]
    for holder in holders:
        for name, tensor in (*holder._parameters.items(), *holder._buffers.items()):
            if tensor is not None:
                yield name, tensor


def _computes(module: nn.Module) -> bool:
    """Whether the module does something of its own in evaluation mode; a mere container has no forward pass."""
    return type(module).forward is not nn.Module.forward and not isinstance(module, (nn.Dropout, nn.Identity))


def _silent_adapters(module: nn.Module) -> Iterator[nn.Module]:
    """The parts of the module that are an adapter which adds nothing."""
    for first, last in _ADDS_NOTHING_WHILE_ZERO.items():
        down, up = module._modules.get(first), module._modules.get(last)
        if down is not None and up is not None and not any(bool(p.any()) for p in up.parameters()):
            yield from (down, up)


def _configuration(model: nn.Module) -> Any:
    config = getattr(model, "config", None)
    return _without_the_rest(config.to_dict()) if hasattr(config, "to_dict") else None


def _without_the_rest(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    kept = {name: value for name, value in values.items() if name not in _NOT_OF_LAYERS and "dropout" not in name}
    return {str(name): _without_the_rest(value) for name, value in kept.items()}


def _sum(tensor: Tensor) -> int:
    """Of the bits, taken for whole numbers; 0 on a device, which the host does not wait for."""
    if tensor.device.type != "cpu":
        return 0
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}.get(tensor.element_size(), torch.uint8)
    return int(tensor.detach().contiguous().view(whole).sum(dtype=torch.int64))


def _bytes(tensor: Tensor) -> Any:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else b""
