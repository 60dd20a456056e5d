"""From a corpus and a model to the folder of a card: card.json, card.png, card.html."""

from __future__ import annotations

import json
import logging
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...card.card import LayerCard
from ...card.fingerprints import model_facts
from ...card.frozen import only_trainable
from ...card.losses import to_device
from ...card.measure import OnEvent, check_measurable, measure
from ...errors import LayerSelectError
from ...models.holding import holding_of
from ...models.traits import reason
from ...utils.claims import Claim
from ...utils.folders import check_free, discard, move_into_place, partial_folder
from ...utils.options import flag_of
from ...utils.places import output_path
from ...utils.sizes import parse_bytes
from ..revise.config import ReviseConfig
from ..run.devices import resolve_device
from ..run.memory import MEASURING, running_out
from ..run.requirements import check_requirements
from ..run.stages import LOADING
from .sample import CardJob, Sample, count_examples, prepare

logger = logging.getLogger(__name__)

CARD = "card.json"
#: What of a run's settings the command has options for that take memory.
_OPTIONS = ("batch_size", "max_length", "dtype", "quantize", "device_map")
#: Sizes for --max-memory, the next smaller of which is tried.
_SMALLER = ("1GB", "256MB")


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
    with _running_out(job, LOADING):
        sample = prepare(job)
    return {
        "out": str(target),
        "model": settings.model,
        "layers": len(sample.loaded.layer_names),
        "examples": count_examples(sample.batches),
        "batches": len(sample.batches),
        "fresh": sample.loaded.fresh if job.head_steps else [],
    }


def _running_out(job: CardJob, stage: str) -> AbstractContextManager[None]:
    """Says what to try where memory runs out; see :func:`layerselect.tasks.run.memory.running_out`."""
    held = parse_bytes(job.max_memory, "max_memory")
    sizes = [size for size in _SMALLER if stage == MEASURING and parse_bytes(size, "max_memory") < held]
    flags = {name: flag_of(type(job.settings), name) for name in _OPTIONS}
    return running_out(job.settings, stage, flags=flags, more=[f"--max-memory {size}" for size in sizes[:1]])


def _measured(job: CardJob, target: Path, device: torch.device, on_event: OnEvent | None) -> LayerCard:
    """The card, written to its place."""
    with _running_out(job, LOADING):
        sample = prepare(job)
    with _running_out(job, MEASURING):
        return _measured_on(sample, job, target, device, on_event)


def _measured_on(
    sample: Sample, job: CardJob, target: Path, device: torch.device, on_event: OnEvent | None
) -> LayerCard:
    from ...report.card import write_card_png, write_card_report

    settings = job.settings
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
        data={**card.data, "corpus": sample.corpus.name, "task": task, "examples": count_examples(sample.batches)},
        settings={
            **card.settings,
            "head_steps": job.head_steps if sample.loaded.fresh else 0,
            "batch_size": settings.batch_size,
        },
    )
    partial = partial_folder(target)
    discard(partial)
    try:
        partial.mkdir(parents=True)
        card.save(partial / CARD)
        (partial / "config.json").write_text(
            json.dumps({"command": "layerselect card", "task": task, "settings": settings.as_dict()}, indent=1) + "\n"
        )
        write_card_png(partial / "card.png", card)
        write_card_report(partial / "card.html", card)
        move_into_place(partial, target)
    except BaseException:
        discard(partial)  # a card is written whole or not at all
        raise
    return card


def _check_place(target: Path, overwrite: bool) -> None:
    if overwrite and (target / CARD).is_file():
        return
    check_free(target)


def _train_fresh(model: nn.Module, sample: Sample, job: CardJob, device: torch.device) -> None:
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
