"""From the predictor to the generator: which layers, their adapters, and how well they fit."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...models.holding import device_of
from ...rules import Fixed, Rule, make_rule
from ...rules.ablation import evaluating
from ...selector.selector import FastSelector
from ...transfer import alignment_ratio, own_frequency, pick_layers, read_importance, transfer_adapter
from ..text.completions import CompletionCollator, CompletionSplit, completion_loss
from .config import ReviseConfig

logger = logging.getLogger(__name__)

#: Training examples by which the loss before and after the transfer is measured.
_LOOKED_AT = 32
LOW_RATIO = 0.5
_SPIKE = 1.1


@dataclass
class Transfer:
    """What was transferred, and what came of it.

    Attributes:
        kind: ``shared`` or ``all``.
        frequency, steps: G of the predictor, and the number of its steps.
        layers: S_pre, the layers that matter by G.
        transferred: the layers that started from the predictor's adapters: S_pre, or all.
        parameters: how many numbers were copied.
        untrained_loss, first_loss: the loss of the generator on some training examples before and after the transfer.
        own_frequency, own_steps: how often the variance rule would have selected each layer by the generator's own
            gradients, and in how many steps these were known of all layers (the probes).
        own: S_gen, the layers that matter by that; empty if no step told.
        ratio: r = |S_pre and S_gen| / |S_gen|; ``None`` if no step told.
        warnings: sentences for the user.
    """

    kind: str
    frequency: list[int]
    steps: int
    layers: list[int]
    transferred: list[int]
    parameters: int
    untrained_loss: float
    first_loss: float
    own_frequency: list[int] = field(default_factory=list)
    own_steps: int = 0
    own: list[int] = field(default_factory=list)
    ratio: float | None = None
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)
        logger.warning("%s", sentence)


def picking_rule(config: ReviseConfig) -> str:
    """The rule that picks layers from a frequency: the run's, if that is what it is for; the variance rule
    otherwise.
    """
    return config.rule if config.transfer == "shared" else "variance"


def hand_over(
    model: nn.Module,
    predictor: str | Path,
    config: ReviseConfig,
    examples: CompletionSplit,
    *,
    tokenizer: Any,
    fingerprint: str,
) -> Transfer:
    """Starts the generator's layers from the predictor's adapters; see :func:`layerselect.transfer.transfer_adapter`.

    Raises:
        LayerSelectError: the predictor's run cannot be read or does not fit.
    """
    known = read_importance(predictor)
    layers = pick_layers(known.frequency, picking_rule(config), seed=config.seed)
    given = layers if config.transfer == "shared" else list(range(len(known.frequency)))
    before = look_at(model, examples, tokenizer, config)
    copied = transfer_adapter(model, predictor, given, base_fingerprint=fingerprint)
    after = look_at(model, examples, tokenizer, config)
    found = Transfer(
        config.transfer, list(known.frequency), known.steps, layers, given, copied.parameters, before, after
    )
    logger.info(
        "layers %s start from %s (%d numbers); loss %.3f, before %.3f",
        given,
        predictor,
        copied.parameters,
        after,
        before,
    )
    if after > _SPIKE * before:
        found.warn(
            f"the transferred adapters raise the loss before the first step from {before:.3f} to {after:.3f}: what "
            "the predictor learned does not suit the generator as it is"
        )
    return found


def generator_rule(config: ReviseConfig, transfer: Transfer | None) -> Rule:
    """How the generator's layers are selected: the shared ones in every step, with a look at all of them now and then;
    or, in every step anew, by the run's rule.
    """
    if transfer is not None and config.transfer == "shared":
        return Fixed(list(transfer.layers), probe=True)
    return make_rule(config.rule, seed=config.seed)


def measure_alignment(transfer: Transfer, selector: FastSelector, config: ReviseConfig) -> None:
    """Fills in what the generator's own gradients say of the choice; warns where they say another one. Layers below a
    cut have no say: they take no gradients.
    """
    cut, rows = selector.cut or 0, selector.history.arrays()
    frequency, steps = own_frequency({name: rows[name][:, cut:] for name in ("scores", "trained")})
    transfer.own_frequency, transfer.own_steps = [0] * cut + frequency.tolist(), steps
    lost = [layer for layer in transfer.layers if layer < cut] if config.transfer == "shared" else []
    if lost:
        transfer.warn(
            f"the layers {lost}, which matter to the predictor, are below the cut: they have its adapters and did "
            "not train"
        )
    if not steps:
        transfer.warn(
            "the alignment ratio is not known: in no step were all layers measured, so set --probe-every lower"
        )
        return
    transfer.own = pick_layers(transfer.own_frequency, picking_rule(config), seed=config.seed)
    transfer.ratio = alignment_ratio(transfer.layers, transfer.own)
    if transfer.ratio < LOW_RATIO:
        transfer.warn(
            f"the alignment ratio is {transfer.ratio:.2f}: of the layers {transfer.own} that the generator's own "
            f"gradients choose, the predictor's choice {transfer.layers} holds less than half"
        )


def look_at(model: nn.Module, examples: CompletionSplit, tokenizer: Any, config: ReviseConfig) -> float:
    """The loss on the first training examples, before the first step."""
    part = examples.subset(range(min(_LOOKED_AT, len(examples))))
    return mean_loss(model, part, CompletionCollator(tokenizer.pad_token_id), config.batch_size)


@torch.no_grad()
def mean_loss(model: nn.Module, split: CompletionSplit, collate: CompletionCollator, batch_size: int) -> float:
    """The mean loss of a completion token over a split, weighted where it has weights, in evaluation mode."""
    device = device_of(model)
    total, tokens = 0.0, 0.0
    with evaluating(model):
        for start in range(0, len(split), batch_size):
            batch = collate([split[i] for i in range(start, min(start + batch_size, len(split)))])
            loss, count = completion_loss(model, {name: value.to(device) for name, value in batch.items()})
            total, tokens = total + float(loss) * float(count), tokens + float(count)
    return total / tokens


def check_rule(config: ReviseConfig, num_layers: int) -> None:
    """Finds out before a predictor is trained whether the rule can pick layers by its frequency.

    Raises:
        LayerSelectError: it cannot.
    """
    if config.trains_predictor:
        pick_layers(list(range(1, num_layers + 1)), picking_rule(config), seed=config.seed)
