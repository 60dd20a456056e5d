"""Training examples on which rule ``ist`` measures the importance of layers, by ablation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from torch import Tensor

from ...errors import LayerSelectError
from ...rules import Ist, Rule, make_rule
from ...rules.ablation import Ablation
from ...utils.launch import launched
from .settings import TrainingSettings
from .training import MeasuredTrainer

logger = logging.getLogger(__name__)

IMPORTANCE = "importance"
#: So many batches are held out, and no more than this share of the training examples.
BATCHES = 4
MOST = 0.1


class Examples(Protocol):
    """A split of any task."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...

    def subset(self, indices: Sequence[int], name: str | None = None) -> Examples:
        """The examples at ``indices``, in that order."""
        ...


class Cached(Protocol):
    """A run that may have a cut."""

    @property
    def layers_below(self) -> int: ...


Split = TypeVar("Split", bound=Examples)


def reserve_importance_split(train: Split, settings: TrainingSettings) -> tuple[Split, Split | None]:
    """The training split with some examples taken out of it, and these, if the rule needs them for its ablations.

    Which ones depends on ``settings.split_seed`` alone.

    Raises:
        LayerSelectError: there is but one training example.
    """
    if not isinstance(make_rule(settings.rule), Ist):
        return train, None
    total = len(train)
    if total < 2:
        raise LayerSelectError(f"--rule {settings.rule} holds out training examples, and there is only one")
    count = max(1, min(BATCHES * settings.batch_size * launched(), int(MOST * total)))
    order = np.random.default_rng((settings.split_seed, total)).permutation(total)
    logger.info("%d of %d training examples are held out for the ablations of rule %s", count, total, settings.rule)
    return train.subset(sorted(order[count:].tolist())), train.subset(order[:count].tolist(), name=IMPORTANCE)


def give_ablation(
    rule: Rule,
    trainer: MeasuredTrainer,
    held_out: Examples | None,
    collator: Callable[..., Any],
    batch_size: int,
    state_cache: Cached | None = None,
) -> None:
    """Ties ``rule`` to the trainer's model and loss, if it needs an ablation. Call it before weights of a checkpoint
    are loaded.

    Args:
        held_out: from :func:`reserve_importance_split`.
        state_cache: what the run keeps. Layers below its cut have learned nothing in this run, so they are never
            suppressed: hidden states would be kept that are not those of the model.
    """
    if not isinstance(rule, Ist):
        return
    assert held_out is not None
    items = [held_out[i] for i in range(len(held_out))]
    batches = [collator(items[start : start + batch_size]) for start in range(0, len(items), batch_size)]
    ablation = Ablation(trainer.model, trainer.loss_on, batches)

    def above_the_cut(scales: Sequence[float], number: int) -> Tensor:
        below = state_cache.layers_below if state_cache is not None else 0
        return ablation([*[1.0] * below, *scales[below:]], number)

    rule.ablation = above_the_cut


def tried_on(rule: Rule) -> Rule:
    """``rule``, fit for a selector that makes no step."""
    if isinstance(rule, Ist):
        rule.ablation = _nothing_to_ablate
    return rule


def _nothing_to_ablate(scales: Sequence[float], number: int) -> Tensor:
    raise AssertionError("no update is due before the first step")
