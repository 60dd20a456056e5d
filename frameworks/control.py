"""The control: a program that raised is run once more with a selector that does nothing, which tells whose fault it was."""

from __future__ import annotations

import importlib
import sys
import traceback
from typing import Any

import torch
from torch import nn


class Inert:
    """What a program calls on a selector, without effect."""

    def __init__(self, model: nn.Module, *args: Any, **options: Any) -> None:
        self._model = model

    def trainable_parameters(self) -> list[nn.Parameter]:
        return [p for p in self._model.parameters() if p.requires_grad]

    def attach(self, *optimizers: Any) -> None:
        """Nothing to attach."""

    def step(self, grad_scale: Any = None) -> None:
        """Nothing to select."""

    def clip_grad_norm_(self, max_norm: float) -> Any:
        return torch.nn.utils.clip_grad_norm_(self._model.parameters(), max_norm)

    def close(self) -> None:
        """Nothing to undo."""


def run(program: str, arguments: list[str], mode: str) -> BaseException | None:
    """What the program raises with such a selector; ``None``: nothing."""
    import layerselect

    module = f"frameworks.programs.{program}"
    places = [(layerselect, "FastSelector", Inert)]
    integration = sys.modules.get("layerselect.integrations.transformers")
    if integration is not None:
        from transformers import TrainerCallback

        places.append((integration, "SelectorCallback", lambda *args, **options: TrainerCallback()))
    kept = [(place, name, getattr(place, name)) for place, name, _ in places]
    sys.modules.pop(module, None)
    try:
        for place, name, inert in places:
            setattr(place, name, inert)
        importlib.import_module(module).main(*arguments, mode=mode)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return error
    finally:
        for place, name, real in kept:
            setattr(place, name, real)
        sys.modules.pop(module, None)
    return None
