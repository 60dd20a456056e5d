"""Models without weights, ready to train, and what the steps of each way of training hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from torch import Tensor, nn

from ...costs.counted import LayerCosts
from ...costs.optimizer_state import state_bytes
from ...costs.simulated import Bytes, Simulation, StepMemory
from ...errors import LayerSelectError
from ...layers.find import LayeredParameters, split_parameters
from ...models.adapters import AdapterConfig, add_adapter
from ...models.blank import blank_model
from ...models.recomputing import recompute_layers
from ...models.traits import reason
from ...models.weight_bytes import check_quantizes, keep_inputs_of, unpacked_bytes, weight_bytes
from ...selector.savings import counted_costs
from .batch import batch_loss, tokens_of
from .settings import PlanSettings
from .ways import Mask, Way

#: Of a GPU, what is no tensor of the training: the CUDA context and its libraries, and what the allocator leaves in
#: pieces.
_CONTEXT, _PIECES = 700_000_000, 0.03
_LARGEST_BATCH = 1 << 20


@dataclass(frozen=True)
class PlanRow:
    """One way of training, with bytes at the batch that was asked for.

    Attributes:
        way: its name.
        what: one line about it.
        weights_in: how the pretrained weights are held: a type, ``8bit`` or ``4bit``.
        checkpointing: layers are computed again in the backward pass.
        weights, gradients, optimizer: of the fullest step.
        activations: what its forward pass keeps for the backward pass.
        peak: the most that is held at one time; more than the four together by what lives for a moment only, or less,
            since gradients come while activations go.
        usual_peak: the same of most steps; as ``peak`` unless all layers are measured now and then.
        arithmetic: multiply-adds of a step, on average, as a share of those of an adapter in every layer without
            checkpointing.
        operations: multiplications and additions of a step, on average; two for each multiply-add.
        seconds: how long they take at the speed that was asked for; ``None`` where none was.
        fits: it fits the card; ``None`` where none is named.
        largest_batch: the most examples that fit; 0 if not even one does, ``None`` where no card is named.
    """

    way: str
    what: str
    weights_in: str
    checkpointing: bool
    weights: int
    gradients: int
    optimizer: int
    activations: int
    peak: int
    usual_peak: int
    arithmetic: float
    operations: float
    seconds: float | None = None
    fits: bool | None = None
    largest_batch: int | None = None


def reserved(peak: int, *, on_gpu: bool) -> int:
    """What a card must have for a training whose tensors take ``peak`` bytes."""
    return round(peak * (1 + _PIECES)) + _CONTEXT if on_gpu else peak


class Models:
    """The models that a plan needs, each made and run when it is asked for first."""

    def __init__(self, settings: PlanSettings) -> None:
        self._settings = settings
        self._made: dict[tuple[bool, bool, bool], Prepared] = {}

    def prepared(self, *, whole: bool, keeps_inputs: bool = False, checkpointing: bool = False) -> Prepared:
        key = (whole, keeps_inputs, checkpointing)
        if key not in self._made:
            adapter = AdapterConfig("none") if whole else self._settings.adapter_config()
            self._made[key] = Prepared(self._settings, adapter, keeps_inputs=keeps_inputs, checkpointing=checkpointing)
        return self._made[key]

    def check(self, quantize: str, *, checkpointing: bool) -> None:
        """Checks that the model can be held and computed with like this.

        Raises:
            CannotQuantize: it has no maps to hold in few bits.
            CannotRecompute: its architecture has no gradient checkpointing.
        """
        step = self.prepared(whole=False, keeps_inputs=quantize == "8bit", checkpointing=checkpointing)
        check_quantizes(step.model, step.found.names, quantize, self._settings.model)

    def row(self, way: Way, quantize: str, *, checkpointing: bool) -> PlanRow | None:
        """A row, or ``None`` where there is no such way of training."""
        plain = self._settings.adapter == "none"
        if way.whole and (quantize != "none" or plain):
            return None  # without an adapter every way trains the layers' own weights
        # In 4 bits a step keeps what it keeps of weights that are not packed.
        step = self.prepared(whole=way.whole, keeps_inputs=quantize == "8bit", checkpointing=checkpointing)
        return step.row(way, quantize, unit=self.prepared(whole=plain).costs.whole)


class Prepared:
    """A model without weights, ready to train, and what its steps hold."""

    def __init__(
        self, settings: PlanSettings, adapter: AdapterConfig, *, keeps_inputs: bool, checkpointing: bool
    ) -> None:
        self._settings, self._keeps_inputs, self._checkpointing = settings, keeps_inputs, checkpointing
        self._holding = settings.holding()
        loaded = blank_model(
            settings.model,
            writes=settings.writes,
            classes=settings.classes,
            dropout=settings.dropout,
            holding=self._holding,
        )
        self.model: nn.Module = add_adapter(loaded, adapter)
        self.model.train()
        recompute_layers(self.model, "nonreentrant" if checkpointing else "none", loaded.source)
        self.found: LayeredParameters = split_parameters(self.model)
        self.costs: LayerCosts = counted_costs(self.model)
        self._source = loaded.source

    def row(self, way: Way, quantize: str, *, unit: float) -> PlanRow:
        settings, batch = self._settings, self._settings.batch_size or 1
        fullest, usual = way.fullest(self.costs), way.usual(self.costs)
        optimizer = state_bytes(settings.optimizer, self._parameters(fullest))
        weights = weight_bytes(self.model, self.found.names, quantize)
        rest = weights + optimizer + unpacked_bytes(self.model, self.found.names, quantize)
        peak = self._peak(fullest, batch) + rest
        done = way.arithmetic(self.costs)
        operations = 2 * done * sum(tokens_of(settings)) * batch * settings.accumulate
        row = PlanRow(
            way.name,
            way.what,
            self._holding.dtype if quantize == "none" else quantize,
            self._checkpointing,
            weights,
            sum(p.numel() * p.element_size() for p in self._parameters(fullest)),
            optimizer,
            self._saved(fullest).at(batch),
            peak,
            self._peak(usual, batch) + rest,
            done / unit,
            operations,
            None if settings.speed is None else operations / (settings.speed * 1e12),
        )
        if settings.memory is None:
            return row
        largest = self._largest(fullest, rest, settings.memory)
        return replace(row, fits=batch <= largest, largest_batch=largest)

    def _parameters(self, mask: Mask) -> list[Tensor]:
        inside = [p for layer, trains in zip(self.found.layers, mask, strict=True) if trains for _, p in layer]
        return [*inside, *(p for _, p in self.found.outer)]

    def _peak(self, mask: Mask, batch: int) -> int:
        """The most bytes besides what is there all the time: when the forward pass ends, most is held in every step, so
        that a step which keeps less holds less by that much.
        """
        less = self._whole.saved - self._saved(mask)
        return max(self._whole.peak(batch) - less.at(batch), self._least(mask))

    def _least(self, mask: Mask) -> int:
        return sum(p.numel() * p.element_size() for p in self._parameters(mask))

    def _saved(self, mask: Mask) -> Bytes:
        """What a step keeps that trains some of the layers: nothing in those that the backward pass does not reach."""
        whole = self._whole
        if all(mask):
            return whole.saved
        lowest = mask.index(True) if any(mask) else len(mask)
        saved = whole.saved
        for layer, own in enumerate(whole.by_layer):
            if layer < lowest:
                saved -= own
            elif not mask[layer]:
                saved -= own - self._crossed[layer]
        return saved

    def _largest(self, mask: Mask, rest: int, memory: int) -> int:
        def fits(batch: int) -> bool:
            return reserved(self._peak(mask, batch) + rest, on_gpu=True) <= memory

        low, high = 0, 1
        while high < _LARGEST_BATCH and fits(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low

    @cached_property
    def _simulation(self) -> Simulation:
        if self._keeps_inputs:
            keep_inputs_of(self.model, self.found.names)
        on_gpu, length = self._holding.device == "cuda", sum(tokens_of(self._settings))
        simulation = Simulation(self.model, self.found.modules, on_gpu=on_gpu, length=length)
        self.found = split_parameters(self.model)  # its tensors are others now
        return simulation

    @cached_property
    def _whole(self) -> StepMemory:
        """A step that trains all layers."""
        return self._step(passes=min(self._settings.accumulate, 2))

    @cached_property
    def _crossed(self) -> tuple[Bytes, ...]:
        """What each layer keeps where the backward pass crosses it and it does not train."""
        if self._checkpointing:
            return self._whole.by_layer  # its input, as when it trains
        table: Any = self.model.get_input_embeddings()  # type: ignore[operator]
        handle = table.register_forward_hook(_requires_gradient)
        layers = [parameter for layer in self.found.layers for _, parameter in layer]
        for parameter in layers:
            parameter.requires_grad_(False)
        try:
            return self._step().by_layer
        finally:
            handle.remove()
            for parameter in layers:
                parameter.requires_grad_(True)

    def _step(self, passes: int = 1) -> StepMemory:
        try:
            return self._simulation.step(partial(batch_loss, self.model, self._settings), passes=passes)
        except LayerSelectError:
            raise
        except Exception as error:  # what other people's models raise where tensors have no contents
            raise LayerSelectError(
                f"{self._source} cannot be planned, since a step of it does not run on tensors without contents: "
                f"{reason(error)}"
            ) from error


def _requires_gradient(module: nn.Module, args: object, output: Tensor) -> Tensor:
    return output if output.requires_grad else output.detach().requires_grad_(True)
