"""From a corpus and a model to the folder of a card: card.json, card.png, card.html."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...card.card import LayerCard
from ...card.fingerprints import model_facts
from ...card.frozen import only_trainable
from ...card.losses import Counted, Loss, tensors, to_device
from ...card.measure import MeasureSettings, OnEvent, check_measurable, measure
from ...data import Corpus
from ...errors import LayerSelectError
from ...models.demo import SOURCE as DEMO
from ...models.demo import hold
from ...models.holding import holding_of
from ...models.load import LoadedModel
from ...models.traits import reason, traits_of
from ...utils.claims import Claim
from ...utils.folders import check_free, discard, move_into_place, partial_folder
from ...utils.places import output_path
from ..intent.config import IntentConfig
from ..intent.dataset import Collator, build_splits, label_counts
from ..intent.model import cover
from ..intent.model import prepare as prepare_intent
from ..intent.training import make_head
from ..revise.config import ReviseConfig
from ..revise.model import prepare as prepare_revise
from ..run.devices import resolve_device
from ..run.requirements import check_requirements
from ..text.completions import CompletionCollator, nll
from .settings import CardSettings

logger = logging.getLogger(__name__)

CARD = "card.json"


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
class _Sample:
    """What is measured on: the model, batches, how a batch's loss is computed and which outputs it asks for; and the
    batches that fresh modules are trained on before.
    """

    loaded: LoadedModel
    batches: list[Any]
    loss: Loss
    counted: Counted | None
    corpus: Corpus
    others: list[Any]


def run_card(job: CardJob, *, on_event: OnEvent | None = None) -> tuple[LayerCard, Path]:
    """Measures a card and writes its folder, whole or not at all.

    Raises:
        LayerSelectError: whatever in the corpus, the model, the options or the place cannot be used.
    """
    settings = job.settings
    check_requirements(settings)
    device = torch.device(resolve_device(settings.device))
    target = output_path(settings.out, apart={"--data": settings.data}, kept={"--model": settings.model})
    _check_place(target, job.overwrite)
    claim = Claim(target)
    try:
        return _measured(job, target, device, on_event), target
    finally:
        claim.release()


def plan_card(job: CardJob) -> dict[str, Any]:
    """What :func:`run_card` would measure. Everything is read and checked; nothing is written, nothing measured.

    Returns:
        ``out``, ``model``, ``layers``, ``examples``, ``batches`` and ``fresh``, the modules that are trained first.

    Raises:
        LayerSelectError: as :func:`run_card`.
    """
    settings = job.settings
    check_requirements(settings)
    target = output_path(settings.out, apart={"--data": settings.data}, kept={"--model": settings.model})
    _check_place(target, job.overwrite)
    sample = _prepare(job)
    return {
        "out": str(target),
        "model": settings.model,
        "layers": len(sample.loaded.layer_names),
        "examples": _examples(sample.batches),
        "batches": len(sample.batches),
        "fresh": sample.loaded.fresh if job.head_steps else [],
    }


def _measured(job: CardJob, target: Path, device: torch.device, on_event: OnEvent | None) -> LayerCard:
    """The card, written to its place."""
    from ...report.card import write_card_png, write_card_report

    settings = job.settings
    sample = _prepare(job)
    model = sample.loaded.model
    if not holding_of(model).places_itself:
        model = model.to(device)
    facts = model_facts(model)
    options = {"layers": sample.loaded.layer_names, **job.options}
    try:
        if job.head_steps and sample.loaded.fresh:
            check_measurable(model, sample.batches, loss=sample.loss, max_memory=job.max_memory, **options)
            _train_fresh(model, sample, job, device)
        card = measure(
            model,
            sample.batches,
            loss=sample.loss,
            counted=sample.counted,
            max_memory=job.max_memory,
            seed=settings.seed,
            on_event=on_event,
            **options,
        )
    except LayerSelectError:
        raise
    except Exception as error:  # what other people's models raise
        raise LayerSelectError(f"no card can be made of {sample.loaded.source}: {reason(error)}") from error
    task = "revise" if isinstance(settings, ReviseConfig) else "intent"
    card = replace(
        card,
        # Of the model before its head was trained: the same for every sample.
        model={**card.model, **facts, "source": settings.model, "fresh": sample.loaded.fresh},
        data={**card.data, "corpus": sample.corpus.name, "task": task, "examples": _examples(sample.batches)},
        settings={
            **card.settings,
            "head_steps": job.head_steps if sample.loaded.fresh else 0,
            "batch_size": settings.batch_size,
        },
    )
    partial = partial_folder(target)
    discard(partial)
    partial.mkdir(parents=True)
    card.save(partial / CARD)
    (partial / "config.json").write_text(
        json.dumps({"command": "layerselect card", "task": task, "settings": settings.as_dict()}, indent=1) + "\n"
    )
    write_card_png(partial / "card.png", card)
    write_card_report(partial / "card.html", card)
    move_into_place(partial, target)
    return card


def _check_place(target: Path, overwrite: bool) -> None:
    if overwrite and (target / CARD).is_file():
        return
    check_free(target)


def _prepare(job: CardJob) -> _Sample:
    settings = job.settings
    corpus = settings.load_corpus()
    if isinstance(settings, ReviseConfig):
        loaded, splits = prepare_revise(settings, corpus)
        batches, others = _batches(
            splits.train,
            CompletionCollator(loaded.tokenizer.pad_token_id),
            job,
            bool(loaded.fresh),
            pads=traits_of(loaded.model).pads,
        )
        return _Sample(loaded, batches, _completion_loss, _answers, corpus, others)
    loaded, words, encoder = prepare_intent(settings, corpus)
    splits = build_splits(corpus, encoder, seed=settings.split_seed)
    cover(loaded, words, splits)
    if settings.model == DEMO:
        hold(loaded, settings.holding())
    train = splits.train
    batches, others = _batches(
        train, Collator(loaded.tokenizer, words), job, bool(loaded.fresh), pads=traits_of(loaded.model).pads
    )
    counts = label_counts(train, len(corpus.labels))
    # The loss that the task trains with.
    head = make_head(settings.class_weights, counts, len(train), words, multi_label=corpus.multi_label)

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return head.loss(model, {name: value for name, value in batch.items() if name != "labels"}, batch["labels"])

    return _Sample(loaded, batches, loss, None if words is None else _answers, corpus, others)


def _batches(split: Any, collator: Any, job: CardJob, fresh: bool, *, pads: bool = True) -> tuple[list[Any], list[Any]]:
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


def _train_fresh(model: nn.Module, sample: _Sample, job: CardJob, device: torch.device) -> None:
    """Trains the fresh modules alone, on examples that are not measured (unless there are but one or two)."""
    batches = [to_device(batch, device) for batch in sample.others or sample.batches]
    with only_trainable(model, sample.loaded.fresh) as parameters:
        if not parameters:
            return
        optimizer = torch.optim.AdamW(parameters, lr=job.head_lr, weight_decay=0.0)
        for step in range(job.head_steps):
            found = sample.loss(model, batches[step % len(batches)])
            value = found[0] / found[1] if isinstance(found, tuple) else found.mean()
            if not value.requires_grad:  # they are of another part of the model: of images, or sound
                return
            value.backward()
            optimizer.step()
            optimizer.zero_grad()
    logger.info(
        "trained for %d steps, because no pretraining reached them: %s", job.head_steps, ", ".join(sample.loaded.fresh)
    )


def _examples(batches: Sequence[Any]) -> int:
    return sum(len(batch["input_ids"]) for batch in batches)
