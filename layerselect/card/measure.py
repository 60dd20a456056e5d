"""Measures a Layer Card: statistics on some batches, what follows from them checked on the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import LayerSelectError
from ..layers.find import LayerSpec
from ..utils.renamed import OF_MEASURE, takes_old_names
from ..utils.sizes import parse_bytes, show_bytes
from .adapt import RATES, performance
from .assemble import assemble
from .card import STABLE, LayerCard
from .cost import layer_costs
from .fingerprints import data_fingerprint, model_facts
from .first_gain import first_gains
from .frozen import all_frozen
from .losses import BatchLoss, Counted, Loss, examples, tensors, to_device
from .maps import WatchedLayers, find_maps
from .memory import MemoryPlan, Survey, plan_memory, survey
from .settings import MeasureSettings
from .sweep import Sweeper

logger = logging.getLogger(__name__)

#: Told of ``("plan", {...})`` before the measurement, of ``("batch", {"done", "total"})`` during it.
OnEvent = Callable[[str, dict[str, Any]], None]


@takes_old_names(OF_MEASURE, "measure")
def measure(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    loss: Loss | None = None,
    counted: Counted | None = None,
    layers: LayerSpec = None,
    max_memory: int | str = "4GB",
    dtype: torch.dtype = torch.float32,
    on_event: OnEvent | None = None,
    **settings: Any,
) -> LayerCard:
    """Measures which layers of ``model`` are worth an adapter for the task that ``batches`` are a sample of.

    The model is not changed: it is frozen and in evaluation mode while it is measured, and as before afterwards. On two
    thirds of the batches the second moments of every linear map are added up; from them follow resnorm and the change
    of each map. On the
    other third it is seen what these changes do on data they were not fitted to: that gives ``fresh``, its interval,
    and the coupling. Definitions: ``docs/layer_card.md``.

    Args:
        batches: mappings of tensors that the model is called with, labels included, with the examples in the first
            dimension; or whatever ``loss`` takes. They are kept until the end.
        loss: ``loss(model, batch)``, a number that is the mean over the batch's examples; or the losses one by one, in
            any shape; or their sum and how many they are. ``None`` takes the model's own, which is a mean over the
            labels that count.
        counted: ``counted(batch)``, bool [examples, positions], at which outputs something is asked for, where the
            outputs are sequences and the batch has no ``labels`` that say it.
        layers: as for :class:`~layerselect.FastSelector`. Nothing needs to be trainable.
        max_memory: for what is held besides the model and its passes, as bytes or ``"4GB"``. Where all layers together
            need more, they are measured in several sweeps over the batches. What is needed is logged, and told to
            ``on_event``, before it starts.
        dtype: of the sums; float32 or float64.
        on_event: told of the plan and the progress.
        settings: fields of ``MeasureSettings``:
            ``targets`` (which linear maps, a regular expression for their names inside a layer);
            ``ridge`` (0.001; eps as a multiple of the activation energy);
            ``check`` (1/3; the share of the batches that nothing is fitted to; 0, or fewer than four batches: the same
            are used); ``directions`` (2; random ones for the coupling; outputs with no more numbers than this are
            followed exactly); ``likelihood`` (what the loss takes the outputs for: ``categorical``, ``binary``,
            ``gaussian``; ``None`` looks at the labels; ``none`` measures no coupling); ``rank`` (16; of the adapter
            that costs are given for); ``timed`` (whether times and saved bytes are measured); ``adapt_steps`` (0; above
            0, each layer alone is adapted for so many steps, see :mod:`layerselect.card.adapt`),
            ``adapt_optimizer`` (``adamw`` or ``sgd``) and ``adapt_lr`` (``None``: 0.001 and 0.1); ``gain_steps`` (0;
            above 0, it is predicted what so many steps of both optimizers gain, see
            :mod:`layerselect.card.first_gain`); ``seed`` (of directions, resamples and adapters).

    Raises:
        LayerSelectError: no layers, no batches, no loss or one that is not finite, too little memory, an argument
            without meaning.
    """
    try:
        chosen = MeasureSettings(**settings)
    except TypeError as error:
        raise LayerSelectError(
            f"measure: {error}; the settings are: {', '.join(MeasureSettings.__annotations__)}"
        ) from error
    if dtype not in (torch.float32, torch.float64):
        raise LayerSelectError(
            f"dtype={dtype} is too coarse for sums over many tokens: use torch.float32 or torch.float64"
        )
    limit, tell = parse_bytes(max_memory, "max_memory"), on_event or (lambda kind, record: None)
    given = list(batches)
    if not given:
        raise LayerSelectError("there are no batches to measure on: give at least one")
    watched = find_maps(model, layers, chosen.targets)
    device = next(watched.modules[0].parameters()).device
    every = [to_device(batch, device) for batch in given]
    fit, check, held_out = _divide(every, chosen.check)
    batch_loss = BatchLoss(model, loss)
    typical = sorted(every, key=_size)[len(every) // 2]

    with all_frozen(model):
        found, plan = _planned(watched, batch_loss, every, limit, dtype, chosen.targets)
        passes = len(plan.sweeps) * (len(fit) + len(check))
        if found.left_out:
            logger.warning(
                "%d linear maps (%s%s) are left out of the card: they run without gradients, or do not read the "
                "examples one by one",
                len(found.left_out),
                found.left_out[0],
                ", ..." * (len(found.left_out) > 1),
            )
        facts = {
            "sweeps": len(plan.sweeps),
            "statistics_bytes": plan.statistics,
            "peak_bytes": plan.peak,
            "passes": passes,
        }
        logger.info(
            "the card holds %s at most (%s of it sums), in %d sweep%s over %d batches",
            show_bytes(plan.peak),
            show_bytes(plan.statistics),
            len(plan.sweeps),
            "s" * (len(plan.sweeps) > 1),
            len(every),
        )
        tell("plan", facts)
        sweeper = Sweeper(model, batch_loss, found, chosen, dtype, _Counter(passes, tell), counted)
        measured = [sweeper.sweep(sweep, fit, check) for sweep in plan.sweeps]
        tried = None
        if chosen.adapt_steps:
            tried = performance(
                found.layers.maps,
                batch_loss,
                fit,
                check,
                steps=chosen.adapt_steps,
                rank=chosen.rank,
                lr=chosen.rate(chosen.adapt_optimizer),
                optimizer=chosen.adapt_optimizer,
                seed=chosen.seed,
                done=lambda layer: tell("adapted", {"done": layer + 1, "total": len(found.layers.names)}),
            )
        first = None
        if chosen.gain_steps:
            first = first_gains(
                found.layers.maps,
                batch_loss,
                fit,
                check,
                steps=chosen.gain_steps,
                rank=chosen.rank,
                rates={name: chosen.rate(name) for name in RATES},
                seed=chosen.seed,
                done=lambda layer: tell("gained", {"done": layer + 1, "total": len(found.layers.names)}),
            )
        typical_rows = survey(found.layers, lambda: batch_loss(typical))
    costs, step_costs = layer_costs(
        model, typical_rows, lambda: batch_loss(typical)[0], rank=chosen.rank, timed=chosen.timed
    )
    card = assemble(
        found,
        measured,
        costs,
        step_costs,
        chosen,
        held_out=held_out,
        performance=tried,
        first=first,
        model=model_facts(model),
        data={
            "fingerprint": data_fingerprint(given),
            "batches": len(every),
            "fit_batches": len(fit),
            "check_batches": len(check),
            "unit": batch_loss.unit,
            "cost_batch": {"shapes": [list(tensor.shape) for tensor in tensors(typical)], "device": device.type},
        },
        memory=facts,
        dtype=str(dtype).removeprefix("torch."),
    )
    _warn(card)
    return card


def check_measurable(
    model: nn.Module,
    batches: Sequence[Any],
    *,
    loss: Loss | None = None,
    layers: LayerSpec = None,
    targets: str | None = None,
    max_memory: int | str = "4GB",
    dtype: torch.dtype = torch.float32,
    **_: Any,
) -> None:
    """Refuses at once, after one batch, what :func:`measure` would refuse with the same arguments.

    Raises:
        LayerSelectError: no layers, no maps that ``targets`` names, too little memory.
    """
    watched = find_maps(model, layers, targets)
    device = next(watched.modules[0].parameters()).device
    every = [to_device(batch, device) for batch in batches]
    with all_frozen(model):
        _planned(watched, BatchLoss(model, loss), every, parse_bytes(max_memory, "max_memory"), dtype, targets)


def _planned(
    watched: WatchedLayers,
    batch_loss: BatchLoss,
    batches: Sequence[Any],
    limit: int,
    dtype: torch.dtype,
    targets: str | None,
) -> tuple[Survey, MemoryPlan]:
    """What a pass of the first batch shows, and how the layers are divided into sweeps.

    Maps that cannot be watched are left out unless the caller has chosen them.
    """
    size = examples(batches[0]) if targets is None and next(tensors(batches[0]), None) is not None else None
    found = survey(watched, lambda: batch_loss(batches[0]), examples=size)
    growth = max(map(_size, batches)) / max(1, _size(batches[0]))
    return found, plan_memory(found, limit, dtype=dtype, growth=growth)


def _divide(batches: list[Any], share: float) -> tuple[list[Any], list[Any], bool]:
    """The batches to fit to and those to check on, which are spread evenly among them; whether these are others."""
    count = min(round(share * len(batches)), len(batches) - 1)
    if count < 1 or len(batches) < 4:
        return batches, batches, False
    places = {int((number + 0.5) * len(batches) / count) for number in range(count)}
    fit = [batch for place, batch in enumerate(batches) if place not in places]
    return fit, [batches[place] for place in sorted(places)], True


def _warn(card: LayerCard) -> None:
    if card.stability is None:
        logger.warning(
            "one batch tells nothing about the spread: the ranking of the layers has no interval, give more batches"
        )
    elif not card.stability >= STABLE:
        logger.warning(
            "the ranking of the layers is not stable yet: on batches drawn anew its rank correlation is %.2f (at "
            "least %.1f would do); give more batches",
            card.stability,
            STABLE,
        )


class _Counter:
    """Counts passes and tells of them."""

    def __init__(self, total: int, tell: OnEvent) -> None:
        self._total, self._tell, self._done = total, tell, 0

    def __call__(self) -> None:
        self._done += 1
        self._tell("batch", {"done": self._done, "total": self._total})


def _size(batch: Any) -> int:
    return sum(tensor.numel() for tensor in tensors(batch))
