"""The loss of a batch, as a sum with the number of its terms, and random directions in which the outputs may change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LayerSelectError
from ..layers.model_hooks import ModelHook
from ..layers.padding import ARGUMENT

IGNORED = -100  # what transformers calls a label that does not count
LIKELIHOODS = ("categorical", "binary", "gaussian", "none")

#: ``loss(model, batch)``: a number that is the mean over the batch's examples; or the losses one by one, in any shape;
#: or their sum and how many they are.
Loss = Callable[[nn.Module, Any], "Tensor | tuple[Tensor, int]"]
#: ``counted(batch)``: bool [examples, positions], at which outputs something is asked for.
Counted = Callable[[Any], "Tensor | None"]


class BatchLoss:
    """The loss of a model on a batch.

    Args:
        loss: ``None`` takes what the model itself returns as ``loss``, as those of ``transformers`` do.

    Attributes:
        unit: what is counted, ``"examples"``, ``"tokens"`` or ``"losses"``; known after the first batch.
    """

    def __init__(self, model: nn.Module, loss: Loss | None = None) -> None:
        self._model, self._loss = model, loss
        self._outputs: Any = None
        self.unit = "examples"

    def __call__(self, batch: Any) -> tuple[Tensor, int]:
        """The sum of the batch's losses, with gradients, and how many they are.

        Raises:
            LayerSelectError: there is no loss, or it is not a finite number.
        """
        self._outputs = None
        handle = self._model.register_forward_hook(ModelHook(self._keep))
        try:
            total, count = self._own(batch) if self._loss is not None else self._models(batch)
        finally:
            handle.remove()
        if count < 1:
            raise LayerSelectError("a batch has no label that counts, so its loss is no number: leave such batches out")
        if not bool(torch.isfinite(total.detach())):
            raise LayerSelectError(f"the loss of a batch is {float(total)}: a card needs a finite loss on every batch")
        return total, count

    def logits(self) -> Tensor:
        """The outputs of the model in the last call, ``[examples, ..., C]``, in its graph.

        Raises:
            LayerSelectError: it returned nothing that could be them.
        """
        found = _logits(self._outputs)
        if found is None:
            raise LayerSelectError(
                f"{type(self._model).__name__} returned no logits, which the coupling of layers is measured by: "
                "return them as a tensor or as 'logits', or pass likelihood='none' to do without"
            )
        return found

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        self._outputs = output

    def _own(self, batch: Any) -> tuple[Tensor, int]:
        assert self._loss is not None
        value = self._loss(self._model, batch)
        if isinstance(value, tuple) and len(value) == 2:
            self.unit = "losses"
            return value[0], int(value[1])
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise LayerSelectError(
                f"loss(model, batch) returned {type(value).__name__}: it must return a tensor of losses"
            )
        if value.dim():
            self.unit = "losses"
            return value.sum(), value.numel()
        count = examples(batch)
        return value * count, count

    def _models(self, batch: Any) -> tuple[Tensor, int]:
        if not isinstance(batch, Mapping):
            raise LayerSelectError(
                f"a batch is a {type(batch).__name__}, not a mapping that the model could be called with: pass loss="
            )
        output = self._model(**batch)
        value = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if value is None:
            raise LayerSelectError(
                f"{type(self._model).__name__} returned no loss for a batch with {', '.join(map(str, batch))}: put "
                "labels into the batches, or pass loss="
            )
        counted = counted_positions(self._model, batch)
        if counted is None:
            return value * examples(batch), examples(batch)
        self.unit = "tokens"
        count = int(counted.sum())
        return value * count, count


def examples(batch: Any) -> int:
    """How many examples a batch has: the length of its first tensor."""
    first = next(tensors(batch), None)
    if first is None or first.dim() == 0:
        raise LayerSelectError("a batch holds no tensor with examples in it: return the losses one by one from loss=")
    return first.shape[0]


def tensors(batch: Any) -> Iterator[Tensor]:
    """The tensors in a batch, in order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors(value)
    elif isinstance(batch, (list, tuple)):
        for value in batch:
            yield from tensors(value)


def to_device(batch: Any, device: torch.device) -> Any:
    """The same batch, its tensors on ``device``."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


def counted_positions(model: nn.Module, batch: Any) -> Tensor | None:
    """``bool`` [examples, positions]: at which outputs a label is asked for; None where there is one label for an
    example.

    A causal model's output at a position is asked for the label behind it.
    """
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if labels is None or labels.dim() != 2 or labels.is_floating_point():
        return None
    inputs = batch.get("decoder_input_ids", batch.get("input_ids"))
    encoder_decoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    if not encoder_decoder and (inputs is None or labels.shape != inputs.shape[:2]):
        return None
    counted = labels != IGNORED
    if not encoder_decoder and getattr(model, "loss_type", None) in (None, "ForCausalLM"):
        counted = torch.cat([counted[:, 1:], torch.zeros_like(counted[:, :1])], dim=1)
    known: Tensor = counted
    return known


def positions_that_matter(model: nn.Module, batch: Any) -> Tensor | None:
    """As :func:`counted_positions`; where that knows nothing, the positions that are not padding."""
    counted = counted_positions(model, batch)
    if counted is None and isinstance(batch, Mapping) and isinstance(batch.get(ARGUMENT), Tensor):
        there: Tensor = batch[ARGUMENT] != 0
        return there
    return counted


def likelihood_of(model: nn.Module, batch: Any) -> str:
    """What the loss takes the outputs for: ``categorical`` (softmax and cross-entropy), ``binary`` (sigmoids) or
    ``gaussian`` (squared errors).
    """
    known = {
        "regression": "gaussian",
        "single_label_classification": "categorical",
        "multi_label_classification": "binary",
    }.get(getattr(getattr(model, "config", None), "problem_type", None) or "")
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if known is not None:
        return known
    return "categorical" if labels is not None and not labels.is_floating_point() else "gaussian"


def directions(
    logits: Tensor, likelihood: str, count: int, counted: Tensor | None, generator: torch.Generator
) -> list[Tensor]:
    """Directions v in the space of the outputs with mean(v v') = H, the curvature of the loss in its outputs.

    H is the identity for ``gaussian``, p (1 - p) for each output of ``binary`` and diag(p) - p p' for ``categorical``:
    what Gauss and Newton take for the second derivative (Fisher's information). Where an output has at most ``count``
    numbers, they are taken one after the other and the mean is exact for each output; otherwise ``count`` directions
    are drawn, for ``categorical`` as the gradient of the log-probability of a label drawn from p. Outputs at different
    positions get independent signs or draws, so that they do not mix in the mean.

    Args:
        logits: ``[examples, ..., C]``.
        counted: bool ``[examples, positions]``: elsewhere outputs do not matter; ``None``: everywhere they do.
        generator: on the CPU: the same draws on every device.

    Returns:
        Tensors of the shape and dtype of ``logits``, at most ``max(count, C)`` of them.
    """
    values = logits.detach().float() if logits.dtype != torch.float64 else logits.detach()
    size = values.shape[-1]
    flat = values.reshape(-1, size)
    enumerated = size <= count
    signs = torch.ones(len(flat), 1, dtype=flat.dtype, device=flat.device)
    found = []
    for number in range(size if enumerated else count):
        if enumerated and values.dim() > 2:
            signs = (torch.randint(2, (len(flat), 1), generator=generator) * 2 - 1).to(flat)
        drawn = _enumerated(flat, likelihood, number) * signs if enumerated else _drawn(flat, likelihood, generator)
        drawn = drawn.reshape(values.shape)
        if counted is not None and counted.shape == values.shape[:-1]:
            drawn = drawn * counted.to(drawn.device)[..., None]
        found.append(drawn.to(logits.dtype))
    return found


def _enumerated(flat: Tensor, likelihood: str, number: int) -> Tensor:
    one = torch.zeros_like(flat)
    one[:, number] = 1.0
    if likelihood == "categorical":
        p = flat.softmax(dim=-1)
        return p[:, number, None].sqrt() * (one - p)
    if likelihood == "binary":
        p = flat.sigmoid()
        return one * (p * (1.0 - p)).sqrt()
    return one


def _drawn(flat: Tensor, likelihood: str, generator: torch.Generator) -> Tensor:
    if likelihood == "categorical":
        p = flat.softmax(dim=-1)
        heights = torch.rand(len(flat), 1, generator=generator, dtype=torch.float64).to(flat)
        labels = torch.searchsorted(p.cumsum(dim=-1), heights).clamp(max=flat.shape[-1] - 1)
        return torch.zeros_like(p).scatter_(1, labels, 1.0) - p
    noise = torch.randn(flat.shape, generator=generator, dtype=torch.float32).to(flat)
    if likelihood == "binary":
        p = flat.sigmoid()
        return noise * (p * (1.0 - p)).sqrt()
    return noise


def _logits(outputs: Any) -> Tensor | None:
    if isinstance(outputs, Tensor):
        found: Any = outputs
    elif isinstance(outputs, Mapping):
        found = outputs.get("logits")
    elif isinstance(outputs, Sequence) and outputs:
        found = outputs[0]
    else:
        found = getattr(outputs, "logits", None)
    return found if isinstance(found, Tensor) and found.is_floating_point() and found.dim() >= 2 else None
