"""One pass of what a run of the revision task will do, before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ...models.holding import on_device
from ...models.load import LoadedModel
from ..run.trial import try_passes
from ..text.completions import CompletionCollator, completion_loss
from .examples import RevisionSplits
from .generate import GenerationConfig, generate


def check_passes(model: nn.Module, loaded: LoadedModel, splits: RevisionSplits) -> None:
    """One pass of what the run will do, on the longest and the shortest example; see
    :func:`layerselect.tasks.run.trial.try_passes`.

    Args:
        model: ``loaded.model``, ready to train.

    Raises:
        LayerSelectError: the model cannot be trained on the corpus, evaluated, or made to write.
    """
    collator = CompletionCollator(loaded.tokenizer.pad_token_id)
    every = [split[i] for split in (splits.train, *splits.report) for i in range(len(split))]

    def collate(examples: Sequence[Any]) -> dict[str, Tensor]:
        return on_device(collator(examples), loaded.model)

    def evaluate(numbers: Sequence[int]) -> None:
        completion_loss(model, collate([every[i] for i in numbers]))
        generate(
            model,
            loaded.tokenizer,
            [every[i]["prompt"] for i in numbers],
            GenerationConfig(max_new_tokens=2),
            batch_size=len(numbers),
            budgets=[2] * len(numbers),
        )

    try_passes(
        model,
        loaded.source,
        [len(example["prompt"]) + len(example["completion"]) for example in every],
        train=lambda numbers: completion_loss(model, collate([every[i] for i in numbers]))[0],
        evaluate=evaluate,
    )
