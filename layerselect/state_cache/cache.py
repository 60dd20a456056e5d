"""The layers below a cut, whose hidden states are computed once for each example and then taken from a store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import LayerSelectError
from ..layers.find import LayerSpec, layer_modules
from ..layers.model_hooks import ModelHook
from .cached import CachedStates
from .forgotten import without_memory
from .keys import CARRIED, BatchKeys, batch_size
from .padding import batch_of, check_shapes, examples_of
from .passes import check_padding, states_at_cut
from .places import Places
from .prefetch import Prefetcher
from .reasons import needs_all_layers
from .skipping import Skipping
from .stacks import argument_names, check_model, key_kind, named_inputs, refuse_compiled, stacks_at
from .store import StateStore

#: The arguments of a call of the model, by position and by name.
Call = tuple[tuple[Any, ...], dict[str, Any]]


class StateCache:
    """Keeps the hidden states that enter a cut, and gives them to the model instead of computing them again.

    ::

        state_cache = StateCache(model, cut=22, store=StateStore("states"))
        for batch in loader:
            model(**batch).loss.backward()
        state_cache.close()

    Nothing below the cut may train. Each forward pass of ``model`` looks every example of its batch up. Those that are
    not there are computed first, in evaluation mode (dropout would make them random) and without gradients, by a pass
    that stops at the cut. Then the model runs with the layers below the cut skipped. In its first pass the model is
    also run whole, and its output compared. A pass that asks for what only all layers can give (a cache for generation,
    the hidden states of all layers) runs all layers.

    What is below the cut is watched: its weights, which adapters are active, disabled or merged, their scaling, the
    configuration. Each setting has entries of its own. Where hidden states depend on what no entry can be found by
    (hooks of others, noise on embeddings, arguments that are no tensors), the pass computes, and why is said once.

    Args:
        model: the module that the training calls.
        cut: how many of its layers are below, counted over all stacks in forward order; at least 1, at most all but
            one.
        store: where the states are kept; the caller closes it. ``None``: one of its own, in memory as far as it
            reaches.
        layers: where the layers are, as for :class:`~layerselect.FastSelector`; whether they train does not matter. Or
            the layers' modules.
        held: parameters that the caller keeps from training below the cut, whatever their ``requires_grad``; adapters
            that others switch on there are taken to be so, too. ``None``: nothing may require a gradient there.

    Attributes:
        filled: how many examples were computed.
        read: how many came from the store.
        bytes_per_token: what the store keeps of a token; ``None`` before the first pass.
        key_kind: what the keys of its batches depend on besides the batch.

    Raises:
        LayerSelectError: no such cut; the model is sharded or compiled. In a forward pass: something below the cut
            trains; the hidden states of the model cannot be kept; several examples share a row.
    """

    def __init__(
        self,
        model: nn.Module,
        cut: int,
        store: StateStore | None = None,
        *,
        layers: LayerSpec = None,
        held: Collection[nn.Parameter] | None = None,
    ) -> None:
        check_model(model)
        found = layer_modules(model, layers)
        if not isinstance(cut, int) or isinstance(cut, bool) or not 1 <= cut < len(found):
            raise LayerSelectError(
                f"cut={cut!r} is not between 1 and {len(found) - 1}: the model has {len(found)} layers"
            )
        self.cut = cut
        self.filled = self.read = 0
        self._model = model.module if isinstance(model, DistributedDataParallel) else model
        self._names = argument_names(self._model)
        self._stacks = stacks_at(self._model, found, cut)
        self._owns_store = store is None
        self.store = StateStore() if store is None else store
        self._skipping = Skipping([stack.below for stack in self._stacks])
        self._places = Places(
            self._model, model, self._stacks, self.store, self._skipping, {"cut": cut, "layers": len(found)}, held
        )
        self.key_kind = key_kind(self._model, self._stacks)
        self._inside = self._padding_is_idle = False
        self._latest: CachedStates | None = None
        # The model may be compiled afterwards, from outside.
        self._begin: Callable[[tuple[Any, ...], dict[str, Any]], Call] = torch.compiler.disable(self._begun)
        self._modes: list[tuple[nn.Module, bool]] = []
        self._sent = Prefetcher()
        self._handles = [
            # In front of all others: some of them take note of the pass that begins, and ours may run another one
            # first.
            model.register_forward_pre_hook(ModelHook(self._before), with_kwargs=True, prepend=True),
            model.register_forward_hook(ModelHook(self._after), always_call=True),
        ]

    @property
    def bytes_per_token(self) -> int | None:
        return self._places.bytes_per_token

    @property
    def settled(self) -> bool:
        """Whether the model was set in the latest pass as in one before, so that hidden states were looked for."""
        return self._places.settled

    @property
    def reasons(self) -> list[str]:
        """Why passes have computed hidden states themselves: the causes that the log has named."""
        return self._places.reasons

    @property
    def closed(self) -> bool:
        return not self._handles

    def close(self) -> None:
        """Gives the model its layers back. May be called twice."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._skipping.close()
        if self._owns_store:
            self.store.close()

    def __enter__(self) -> StateCache:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def keys(self, batch: Mapping[str, Any]) -> BatchKeys:
        """The keys of a batch that is on the host. A batch that carries them to the model's call, as
        ``batch["cache_keys"]``, spares a GPU's host the wait for the tokens; :meth:`ahead` or a collate function puts
        them in.
        """
        return self.key_kind.keys_of(batch)

    def ahead(self, batches: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """The batches of a loader, which are on the host, each with its keys. While one of them is trained on, the
        states of the next are copied to the GPU: a step waits neither for the tokens nor for the link.

        ::

            for batch in state_cache.ahead(loader):
                model(**to(device, batch)).loss.backward()
        """
        following = None
        for batch in batches:
            keys = batch.get(CARRIED) or self.keys(batch)
            self.send(keys)
            if following is not None:
                yield following
            following = {**batch, CARRIED: keys}
        if following is not None:
            yield following

    # ------------------------------------------------------------------ hooks

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        if self._inside or not self._handles:
            return None
        return self._begin(args, kwargs)

    def _begun(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        refuse_compiled(self._model)
        carried = kwargs.pop(CARRIED, None)
        inputs = {**named_inputs(self._names, args), **kwargs}
        if needs_all_layers(inputs, getattr(self._model, "config", None)):
            below = [part for block in self._below() for part in block.modules()]
            self._modes = [(part, part.training) for part in below]
            for part in below:
                part.training = False  # as in the passes whose states are kept
            return args, kwargs
        if self._places.closed_to(inputs):
            return args, kwargs
        self._inside = True
        trains = torch.is_grad_enabled()
        try:
            with (
                torch.inference_mode(False),
                torch.no_grad(),
            ):  # what is made in inference mode could not be used in training
                keys = self.keys(inputs) if carried is None else carried
                states = self._states(keys, inputs, args, kwargs, trains)
        finally:
            self._inside = False
        if states is not None:
            if trains and self._places.gradients_are_asked():
                states = [state.requires_grad_(True) for state in states]
            self._skipping.taken = [False] * len(self._stacks)
            self._skipping.given = self._for_all_stacks(states)
        return args, kwargs

    def _after(self, module: nn.Module, args: Any, output: Any) -> Any:
        if not self._handles or self._inside:
            return None
        for part, training in self._modes:
            part.training = training
        self._modes = []
        if self._skipping.given is None:
            return None
        self._skipping.given = None
        if output is not None and not all(self._own(self._skipping.taken)):  # None: the pass has failed
            raise LayerSelectError(
                "the model left out its layers below the cut in this pass, so it was not given their hidden states: "
                "set its layerdrop to 0, or train with state_cache='none'"
            )
        return without_memory(output)

    # ------------------------------------------------------------------ states

    def _states(
        self, batch: BatchKeys, inputs: Mapping[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any], trains: bool
    ) -> list[Tensor] | None:
        """The hidden states of a batch at the cut, on their devices, for each stack with layers below it; ``None`` if
        the pass has to compute them.
        """
        kept = self._places.find(inputs, lambda: self._model(*args, **kwargs), batch, trains=trains)
        if kept is None:
            return None
        if trains or self._latest is None:  # what the next batch of the training will ask for
            self._latest = kept
        sent = self._sent.take(batch.keys, kept)
        if sent is not None:
            self.read += len(batch.keys)
            return sent
        masks = self._own(batch.masks)
        examples = kept.look_up(batch, masks)
        missing = [row for row, example in enumerate(examples) if example is None]
        if missing:
            states = self._compute(missing, batch_size(inputs), args, kwargs)
            rows = [None if mask is None else mask[missing] for mask in masks]
            check_shapes(states, len(missing), rows)
            for row, parts in zip(missing, examples_of(states, rows), strict=True):
                # As it will be read: an epoch that computes and one that reads see the same numbers.
                examples[row] = kept.shard.put(batch.keys[row], parts)
        self.filled += len(missing)
        self.read += len(examples) - len(missing)
        whole = [example for example in examples if example is not None]
        host = batch_of(whole, masks, kept.dtypes, pinned=kept.on_gpu)
        states = [state.to(device, non_blocking=True) for state, device in zip(host, kept.devices, strict=True)]
        if batch.asks_padding and not self._padding_is_idle:
            check_padding(
                self._model, lambda: self._model(*args, **kwargs), self._for_all_stacks(states), self._skipping
            )
            self._padding_is_idle = True
        return states

    def send(self, batch: BatchKeys) -> None:
        """Starts to copy the states of the next batch to the GPU, if all of them are there."""
        kept = self._latest
        if kept is None or not kept.on_gpu or batch.asks_padding:
            return
        masks = self._own(batch.masks)
        examples = kept.look_up(batch, masks)
        there = [example for example in examples if example is not None]
        if len(there) == len(examples):
            self._sent.send(batch.keys, kept, batch_of(there, masks, kept.dtypes, pinned=True), kept.devices)

    def _compute(self, rows: list[int], size: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
        """The hidden states of some examples of a batch, padded as they are in it."""

        def of_rows(value: Any) -> Any:
            return value[rows] if isinstance(value, Tensor) and value.ndim and len(value) == size else value

        if len(rows) < size:
            args, kwargs = tuple(map(of_rows, args)), {name: of_rows(value) for name, value in kwargs.items()}
        states = states_at_cut(self._model, lambda: self._model(*args, **kwargs), self._lasts(), self._skipping)
        return self._own(states)

    def _below(self) -> list[nn.Module]:
        return [block for stack in self._stacks for block in stack.below]

    def _lasts(self) -> list[nn.Module | None]:
        return [stack.below[-1] if stack.below else None for stack in self._stacks]

    def _own(self, values: Sequence[Any]) -> list[Any]:
        """Of values for each stack, those of the stacks that have layers below the cut."""
        return [value for value, stack in zip(values, self._stacks, strict=True) if stack.below]

    def _for_all_stacks(self, values: Sequence[Tensor]) -> list[Tensor | None]:
        """Of values for the stacks with layers below the cut, one for each stack: ``None`` for the others."""
        own = iter(values)
        return [next(own) if stack.below else None for stack in self._stacks]
