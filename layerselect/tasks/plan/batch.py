"""The loss of a batch without contents, as the commands make it of a real one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..intent.heads import ClassifierHead
from ..text.completions import nll
from .settings import PlanSettings

#: Tokens of an instruction around the text that is to be revised, and of a label's words.
_INSTRUCTION, _WORDS = 24, 4


def tokens_of(settings: PlanSettings) -> tuple[int, int]:
    """The tokens of an example: of what is read, and of what is written after it."""
    length = settings.max_length or 1
    if settings.task == "revise":
        return length + _INSTRUCTION, length
    return length, _WORDS if settings.writes else 0


def batch_loss(model: nn.Module, settings: PlanSettings, examples: int) -> Tensor:
    """The training loss of so many examples of the full length."""
    read, written = tokens_of(settings)
    prompts = {
        "input_ids": torch.zeros(examples, read, dtype=torch.long),
        "attention_mask": torch.ones(examples, read, dtype=torch.long),
    }
    if not settings.writes:
        targets = torch.zeros(examples, dtype=torch.long)
        return ClassifierHead(multi_label=False).loss(model, prompts, targets)
    answers = torch.zeros(examples, written, dtype=torch.long)
    return nll(model, prompts, answers, torch.ones_like(answers)).mean()
