"""What a card is measured on: a model, and batches of a sample of the task."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from ...card.losses import Counted, Loss, tensors
from ...card.settings import MeasureSettings
from ...data import Corpus
from ...models.demo import SOURCE as DEMO
from ...models.demo import hold
from ...models.load import LoadedModel
from ...models.traits import traits_of
from ..intent.config import IntentConfig
from ..intent.dataset import Collator, build_splits, label_counts
from ..intent.model import cover
from ..intent.model import prepare as prepare_intent
from ..intent.training import make_head
from ..revise.config import ReviseConfig
from ..revise.model import prepare as prepare_revise
from ..text.completions import CompletionCollator, nll
from .settings import CardSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CardJob(CardSettings):
    """One card; see also :class:`~layerselect.tasks.card.settings.CardSettings`.

    Attributes:
        settings: of the task: corpus, model, text, seed, device, batch size. What is about training is not used.
        head_lr: learning rate of the fresh head.
        options: further arguments of :func:`layerselect.card.measure`.
        overwrite: replace an earlier card at ``settings.out``.
    """

    settings: IntentConfig | ReviseConfig
    head_lr: float = 1e-3
    overwrite: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        # What measure() would refuse is refused before a model is loaded.
        MeasureSettings(
            **{each.name: self.options[each.name] for each in fields(MeasureSettings) if each.name in self.options}
        )


@dataclass(frozen=True)
class Sample:
    """What is measured on: the model, batches, how a batch's loss is computed and which outputs it asks for; and the
    batches that fresh modules are trained on before.
    """

    loaded: LoadedModel
    batches: list[Any]
    loss: Loss
    counted: Counted | None
    corpus: Corpus
    others: list[Any]


def prepare(job: CardJob) -> Sample:
    """The sample that is asked for.

    Raises:
        LayerSelectError: something in the corpus, the model or the options cannot be used.
    """
    settings = job.settings
    corpus = settings.load_corpus()
    if isinstance(settings, ReviseConfig):
        loaded, splits = prepare_revise(settings, corpus)
        batches, others = cut_batches(
            splits.train,
            CompletionCollator(loaded.tokenizer.pad_token_id),
            job,
            bool(loaded.fresh),
            pads=traits_of(loaded.model).pads,
        )
        return Sample(loaded, batches, _completion_loss, _answers, corpus, others)
    loaded, words, encoder = prepare_intent(settings, corpus)
    splits = build_splits(corpus, encoder, seed=settings.split_seed)
    cover(loaded, words, splits)
    if settings.model == DEMO:
        hold(loaded, settings.holding())
    train = splits.train
    batches, others = cut_batches(
        train, Collator(loaded.tokenizer, words), job, bool(loaded.fresh), pads=traits_of(loaded.model).pads
    )
    counts = label_counts(train, len(corpus.labels))
    # The loss that the task trains with.
    head = make_head(settings.class_weights, counts, len(train), words, multi_label=corpus.multi_label)

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return head.loss(model, {name: value for name, value in batch.items() if name != "labels"}, batch["labels"])

    return Sample(loaded, batches, loss, None if words is None else _answers, corpus, others)


def cut_batches(
    split: Any, collator: Any, job: CardJob, fresh: bool, *, pads: bool = True
) -> tuple[list[Any], list[Any]]:
    """The batches that are measured, and those of other examples that fresh modules are trained on.

    On examples that the head was trained on, it has fitted by itself what the layers could correct, and what remains is
    its overfitting: nothing would be held out from it.

    Args:
        pads: the model passes over padding. Of one that does not, no batch has any: its rows are of one length.
    """
    generator = torch.Generator().manual_seed(job.settings.seed)
    order = torch.randperm(len(split), generator=generator).tolist()
    kept = len(split) // 3 if fresh and job.head_steps else 0
    chosen = order[: min(job.examples, len(split) - kept)]
    if len(chosen) < job.examples:
        logger.warning(
            "the training split has %d examples%s: --examples %d is lowered to %d",
            len(split),
            ", a third of which is for the fresh head" if kept else "",
            job.examples,
            len(chosen),
        )
    size = job.settings.batch_size
    others = order[len(chosen) :][: job.head_steps * size] if kept else []

    def cut(examples: list[int]) -> list[Any]:
        alike = [examples] if pads else _of_one_shape(split, collator, examples)
        return [
            collator([split[i] for i in group[start : start + size]])
            for group in alike
            for start in range(0, len(group), size)
        ]

    return cut(chosen), cut(others)


def _of_one_shape(split: Any, collator: Any, examples: Sequence[int]) -> list[list[int]]:
    """The examples in groups whose batches need no padding."""
    groups: dict[tuple[torch.Size, ...], list[int]] = {}
    for number in examples:
        groups.setdefault(tuple(tensor.shape for tensor in tensors(collator([split[number]]))), []).append(number)
    return list(groups.values())


def _completion_loss(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
    losses = nll(model, batch, batch["answer_ids"], batch["answer_mask"])
    return losses.sum(), int(batch["answer_mask"].sum())


def _answers(batch: dict[str, Tensor]) -> Tensor:
    """The last outputs, one more than the answers have tokens: each is asked for the token behind it, the last for
    none.
    """
    mask = batch["answer_mask"] != 0
    return torch.cat([mask, torch.zeros_like(mask[:, :1])], dim=1)


def count_examples(batches: Sequence[Any]) -> int:
    """How many examples the batches hold."""
    return sum(len(batch["input_ids"]) for batch in batches)
