"""The control: a program that raised is run once more, in processes of its own, with a selector that does nothing,
which tells whose fault it was.
"""

from __future__ import annotations

import importlib
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


def run(program: str, arguments: list[str], mode: str) -> dict[str, Any]:
    """One run without a selector: ``untried`` if it raises, ``works`` if not."""
    import layerselect
    from layerselect.integrations import outcome
    from layerselect.integrations import transformers as integration
    from transformers import TrainerCallback

    class InertCallback(TrainerCallback):
        def __init__(self, *args: Any, **options: Any) -> None:
            """Takes what a program gives a SelectorCallback."""

    layerselect.FastSelector = Inert
    integration.SelectorCallback = outcome.OutcomeCallback = InertCallback
    result, sentence = "works", ""
    try:
        importlib.import_module(f"frameworks.programs.{program}").main(*arguments, mode=mode)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        result, sentence = "untried", f"it does not run here without the selector either: {said(error)}"
    return {"mode": mode, "result": result, "sentence": sentence, "raised": False, "selectors": []}


def said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
