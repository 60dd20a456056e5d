"""What a folder's files of weights hold, and a model that is far larger than they are: it is refused before it is
built.

A ``config.json`` is a few words of text, and whoever builds what it names builds a million layers, or a table of
2^31 rows, if it says so. Nothing of that could be filled from the files beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as torch_modules

from ..errors import LayerSelectError
from ..utils.saved_words import shown

#: So many layers no file is asked for: weights may be shared by all of them.
_LAYERS = 1000
#: A model may have so many values for each byte of the files (packed ones are several to a byte), and so many more (a
#: new head, positions that are computed).
_VALUES, _MORE_VALUES = 4, 100_000_000
#: The same for modules and tensors: of the modules of a layer many have no weight of their own.
_MODULES, _MORE_MODULES = 50, 10_000


_A_NUMBER_OF_LAYERS = re.compile(r"(?<!per_)(layers?|blocks|depths?)$", re.IGNORECASE)


@dataclass(frozen=True)
class Held:
    """What files of weights hold.

    Attributes:
        tensors: how many there are.
        size: how many bytes they take.
    """

    tensors: int = 0
    size: int = 0

    def __add__(self, other: Held) -> Held:
        return Held(self.tensors + other.tensors, self.size + other.size)


def check_layers(config: Mapping[str, Any], held: Held, folder: str) -> None:
    """Refuses a configuration that names more layers than there are tensors.

    Raises:
        LayerSelectError: it does, in itself or in a configuration inside of it.
    """
    most = max(held.tensors, _LAYERS)
    for name, value in config.items():
        if isinstance(value, Mapping):
            check_layers(value, held, folder)
        elif _A_NUMBER_OF_LAYERS.search(name):
            counts = value if isinstance(value, list) else [value]  # one for each stage
            if any(type(count) is int and count > most for count in counts):
                raise LayerSelectError(
                    f"the config.json of {folder!r} says {name} = {shown(value)}, which is more than the weights "
                    f"beside it can fill ({held.tensors} tensors): take it from where the model was made"
                )


@contextmanager
def no_larger_than(held: Held | None, folder: str) -> Iterator[None]:
    """Stops the building of a model that is out of all proportion to ``held``; ``None``: of any size.

    Raises:
        LayerSelectError: a module, parameter or buffer is made beyond what a model of such files may have.
    """
    if held is None:
        yield
        return
    modules, values = _MODULES * held.tensors + _MORE_MODULES, _VALUES * held.size + _MORE_VALUES
    made = {"modules": 0, "values": 0}

    def count(amount: int, what: str, most: int) -> None:
        made[what] += amount
        if made[what] > most:
            raise LayerSelectError(
                f"the config.json of {folder!r} describes a model of more than {most} {what}, and the weights beside "
                f"it are {held.tensors} tensors of {held.size} bytes: take it from where the model was made"
            )

    def on_module(owner: nn.Module, name: str, module: nn.Module | None) -> None:
        count(1, "modules", modules)

    def on_tensor(owner: nn.Module, name: str, tensor: Tensor | None) -> None:
        if tensor is not None:
            count(tensor.numel(), "values", values)

    handles = [
        torch_modules.register_module_module_registration_hook(on_module),
        torch_modules.register_module_parameter_registration_hook(on_tensor),
        torch_modules.register_module_buffer_registration_hook(on_tensor),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
