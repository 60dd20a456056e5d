"""One pass of everything that a run will do, before anything is written: what fails later would lose the work until
then.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import LayerSelectError
from ...models.traits import reason
from .memory import TRIED_EVALUATION, TRIED_TRAINING, TrialOutOfMemory, trying

logger = logging.getLogger(__name__)

#: What is run on some examples, named by their numbers.
Call = Callable[[Sequence[int]], Tensor]


def try_passes(
    model: nn.Module, source: str, lengths: Sequence[int], *, train: Call, evaluate: Callable[[Sequence[int]], Any]
) -> None:
    """Trains on the longest and the shortest example, without a step, and evaluates them. The model and all that is
    random are as before afterwards.

    Args:
        source: what the user calls the model.
        lengths: of the examples, in tokens.
        train: the loss of some examples, with gradients.
        evaluate: what an evaluation makes of them.

    Raises:
        LayerSelectError: one of these fails, or the loss is not a number.
        TrialOutOfMemory: memory runs out.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    chosen = [order[0], *order[1:][-1:]]
    with _as_before(model):
        _try(model, source, chosen, lengths, "trained", _training(model, train))
        if len(chosen) > 1 and lengths[chosen[1]] < lengths[chosen[0]]:
            _try_short(source, chosen[1], lengths[chosen[1]], _training(model, train))
        _try(model, source, chosen, lengths, "evaluated", _evaluation(model, evaluate))


def _try_short(source: str, number: int, length: int, call: Callable[[Sequence[int]], None]) -> None:
    """The shortest example alone, of a model that has trained on the longest one: some want one length and no other
    (Reformer).
    """
    try:
        with trying(TRIED_TRAINING, f"a batch of 1, of {length} tokens"):
            call([number])
    except (LayerSelectError, TrialOutOfMemory):
        raise
    except Exception as error:  # what other people's models raise
        raise LayerSelectError(
            f"{source} cannot be trained on an example of {length} tokens, though on longer ones: {reason(error)}"
        ) from error


def _training(model: nn.Module, train: Call) -> Callable[[Sequence[int]], None]:
    def call(numbers: Sequence[int]) -> None:
        model.train()
        loss = train(numbers)
        if not math.isfinite(value := float(loss.detach())):
            raise LayerSelectError(
                f"the loss is {value} before the first step: the model's weights are damaged, or its numbers outgrow "
                "its precision"
            )
        loss.backward()

    return call


def _evaluation(model: nn.Module, evaluate: Callable[[Sequence[int]], Any]) -> Callable[[Sequence[int]], None]:
    def call(numbers: Sequence[int]) -> None:
        model.eval()
        with torch.no_grad():
            evaluate(numbers)

    return call


def _try(
    model: nn.Module,
    source: str,
    chosen: Sequence[int],
    lengths: Sequence[int],
    what: str,
    call: Callable[[Sequence[int]], None],
) -> None:
    stage = TRIED_TRAINING if what == "trained" else TRIED_EVALUATION
    try:
        with trying(stage, f"a batch of {len(chosen)}, the longest of {lengths[chosen[0]]} tokens"):
            call(chosen)
    except (LayerSelectError, TrialOutOfMemory):
        raise
    except Exception as error:  # what other people's models raise
        longest = lengths[chosen[0]]
        if len(chosen) > 1 and lengths[chosen[1]] < longest and _runs(call, chosen[1:]):
            raise LayerSelectError(
                f"{source} cannot be {what} on an example of {longest} tokens ({reason(error)}), but can on one of "
                f"{lengths[chosen[1]]}: lower --max-length"
            ) from error
        raise LayerSelectError(f"{source} cannot be {what} on this corpus: {reason(error)}") from error


def _runs(call: Callable[[Sequence[int]], None], chosen: Sequence[int]) -> bool:
    try:
        call(chosen)
    except Exception:
        logger.debug("nor on the shortest example", exc_info=True)
        return False
    return True


@contextmanager
def _as_before(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    grads = [(p, p.grad) for p in model.parameters() if p.requires_grad]
    for parameter, _ in grads:
        parameter.grad = None  # a backward pass adds to what is there, in place
    gpus = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        for parameter, grad in grads:
            parameter.grad = grad
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for module, mode in modes:
            module.training = mode
