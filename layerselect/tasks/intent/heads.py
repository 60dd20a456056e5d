"""What the task asks of a model: the logits of a classification head, or the words of the label.

Both give one logit for each label, so that metrics, predictions and reports need not know which it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...distributed.engines import calls_together
from ...models.holding import computing
from ...models.traits import traits_of
from ...state_cache.keys import CARRIED
from ..run.cache_keys import OFFSET
from ..text.completions import base_of, unpadded_groups
from ..text.verbalizer import Verbalizer, as_answer, label_logits, nll, score

Inputs = Mapping[str, Tensor]


class Head(Protocol):
    """How a model is trained on a batch and what it says of one."""

    def loss(self, model: nn.Module, inputs: Inputs, targets: Tensor) -> Tensor:
        """The training loss, with gradients: a mean over the batch.

        Args:
            targets: class numbers int64 ``[B]`` or 0/1 ``[B, C]``.
        """
        ...

    def evaluate(self, model: nn.Module, inputs: Inputs, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The losses of the examples, float32 ``[B]``, and the logits float32 ``[B, C]``."""
        ...

    def weights(self, targets: Tensor) -> Tensor:
        """float32 ``[B]``: what each example weighs in the mean that is the training loss."""
        ...

    def logits(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """float32 ``[B, C]``: probabilities are their softmax or, with several labels, their sigmoids."""
        ...


class ClassifierHead:
    """A classification head: cross-entropy for one label, binary cross-entropy for several. Where a batch holds an
    ``offset``, float32 ``[B, C]``, it is added to the head's logits.

    Args:
        class_weights: float32 ``[C]``: of the classes, or of the positive examples where there are several labels.
    """

    def __init__(self, *, multi_label: bool, class_weights: Tensor | None = None) -> None:
        self._multi_label, self._weights = multi_label, class_weights

    def loss(self, model: nn.Module, inputs: Inputs, targets: Tensor) -> Tensor:
        logits = self.logits(model, inputs)
        weights = self._weights.to(logits.device) if self._weights is not None else None
        if self._multi_label:
            return functional.binary_cross_entropy_with_logits(logits, targets.float(), pos_weight=weights)
        return functional.cross_entropy(logits, targets, weight=weights)

    def evaluate(self, model: nn.Module, inputs: Inputs, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.logits(model, inputs)
        if not self._multi_label:
            return functional.cross_entropy(logits, targets, reduction="none"), logits
        weights = self._weights.to(logits.device) if self._weights is not None else None
        losses = functional.binary_cross_entropy_with_logits(
            logits, targets.float(), pos_weight=weights, reduction="none"
        )
        return losses.mean(dim=1), logits

    def weights(self, targets: Tensor) -> Tensor:
        if self._multi_label or self._weights is None:
            return torch.ones(len(targets), device=targets.device)
        return self._weights.to(targets.device)[targets]

    def logits(self, model: nn.Module, inputs: Inputs) -> Tensor:
        offset = inputs.get(OFFSET)
        found = self._of_model(model, {name: value for name, value in inputs.items() if name != OFFSET})
        return found if offset is None else found + offset.to(found.device)

    def _of_model(self, model: nn.Module, inputs: Inputs) -> Tensor:
        base = base_of(model)
        if traits_of(base).pads or bool(inputs["attention_mask"].all()):
            with computing(base):
                return model(**inputs).logits.float()
        # The model does not pass over padding: rows of equal length together, without it.
        logits: dict[int, Tensor] = {}
        for rows, start, end in unpadded_groups(inputs["attention_mask"]):
            with computing(base):
                found = model(**{name: value[rows, start:end] for name, value in inputs.items()}).logits.float()
            logits.update(zip(rows.tolist(), found, strict=True))
        return torch.stack([logits[row] for row in range(len(logits))])


class LabelWordHead:
    """The label's words, written after the prompt (see ``layerselect.tasks.text.verbalizer``).

    The loss is the mean of -log P(words | prompt), weighted by class as cross-entropy is. With several labels an
    example weighs the mean of its labels' weights. A batch that has a loss holds the words, ``answer_ids`` and
    ``answer_mask`` int64 ``[B, T]``.

    Args:
        class_weights: float32 ``[C]``.
    """

    def __init__(self, words: Verbalizer, *, class_weights: Tensor | None = None) -> None:
        self.words, self._weights = words, class_weights
        self._membership = words.membership()
        self._places = {answer: place for place, answer in enumerate(words.answers)}

    def loss(self, model: nn.Module, inputs: Inputs, targets: Tensor) -> Tensor:
        losses = nll(model, _prompts(inputs, CARRIED), inputs["answer_ids"], inputs["answer_mask"])
        if self._weights is None:
            return losses.mean()
        each = self.weights(targets)
        return (losses * each).sum() / each.sum()

    def evaluate(self, model: nn.Module, inputs: Inputs, targets: Tensor) -> tuple[Tensor, Tensor]:
        prompts = _prompts(inputs)
        scores = score(model, prompts, self.words.tokens)
        losses = torch.empty(len(scores), device=scores.device)
        unknown = []  # sets of labels that the training split does not have
        for row, answer in enumerate(map(as_answer, targets.cpu())):
            if answer in self._places:
                losses[row] = -scores[row, self._places[answer]]
            else:
                unknown.append(row)
        for number in range(calls_together(model, len(unknown))):
            row = unknown[number] if number < len(unknown) else 0
            alone = {name: value[row : row + 1] for name, value in inputs.items() if name != CARRIED}
            loss = nll(model, _prompts(alone), alone["answer_ids"], alone["answer_mask"])[0]
            if number < len(unknown):
                losses[row] = loss
        return losses, label_logits(scores, self._membership)

    def logits(self, model: nn.Module, inputs: Inputs) -> Tensor:
        return label_logits(score(model, _prompts(inputs), self.words.tokens), self._membership)

    def weights(self, targets: Tensor) -> Tensor:
        if self._weights is None:
            return torch.ones(len(targets), device=targets.device)
        weights = self._weights.to(targets.device)
        return weights[targets] if targets.ndim == 1 else (targets * weights).sum(dim=1) / targets.sum(dim=1)


def _prompts(inputs: Inputs, *more: str) -> Inputs:
    """What a prompt is, and what else is named of a batch and there."""
    return {name: inputs[name] for name in ("input_ids", "attention_mask", *more) if name in inputs}
