"""The layers below a cut, whose hidden states are computed once for each example and then taken from a store."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import LayerSelectError
from ..layers import LayerSpec, layer_modules
from .ahead import SentAhead
from .kept import Kept, numerics_on
from .keys import CARRIED, BatchKeys, batch_size, keys_of
from .padding import batch_of, examples_of
from .passes import check_padding, states_at_cut, survey
from .skipping import Skipping
from .stacks import argument_names, check_model, stacks_at
from .store import TrunkStore
from .weights import TrunkWeights

logger = logging.getLogger(__name__)

#: Goes up when entries of earlier releases mean something else.
_VERSION = 1
#: What a call, or else the model's configuration, may ask for that the layers below the cut have to be run for.
_ASKED_ANYWHERE = ("output_hidden_states", "output_attentions")
#: What is remembered for the next token; without the skipped layers it is not whole.
_REMEMBERED = ("past_key_values", "cache")


class Trunk:
    """Keeps the hidden states that enter a cut, and gives them to the model instead of computing them again.

    ::

        trunk = Trunk(model, cut=22, store=TrunkStore("states"))
        for batch in loader:
            model(**batch).loss.backward()
        trunk.close()

    Nothing below the cut may train. Each forward pass of ``model`` looks every example of its batch up. Those that are not there
    are computed first, in evaluation mode (dropout would make them random) and without gradients, by a pass that stops at the
    cut. Then the model runs with the layers below the cut skipped. In its first pass the model is also run whole, and its output
    compared. A pass that asks for what only all layers can give (a cache for generation, the hidden states of all layers)
    runs all layers.

    The weights below the cut are watched: when one of them is written to, replaced or moved, their fingerprint is taken
    anew, and entries of another one are not found.

    Args:
        model: the module that the training calls.
        cut: how many of its layers are below, counted over all stacks in forward order; at least 1, at most all but one.
        store: where the states are kept; the caller closes it. ``None``: one of its own, in memory as far as it reaches.
        layers: where the layers are, as for :class:`~layerselect.FastSelector`; whether they train does not matter. Or the
            layers' modules.

    Attributes:
        filled: how many examples were computed.
        read: how many came from the store.
        bytes_per_token: what the store keeps of a token; ``None`` before the first pass.

    Raises:
        LayerSelectError: no such cut; the model is sharded or compiled. In a forward pass: something below the cut trains; the
            hidden states of the model cannot be kept; several examples share a row.
    """

    def __init__(
        self, model: nn.Module, cut: int, store: TrunkStore | None = None, *, layers: LayerSpec = None
    ) -> None:
        check_model(model)
        found = layer_modules(model, layers)
        if not isinstance(cut, int) or isinstance(cut, bool) or not 1 <= cut < len(found):
            raise LayerSelectError(
                f"cut={cut!r} is not between 1 and {len(found) - 1}: the model has {len(found)} layers"
            )
        self.cut, self._layers = cut, len(found)
        self.filled = self.read = 0
        self.bytes_per_token: int | None = None
        self._model = model.module if isinstance(model, DistributedDataParallel) else model
        self._names = argument_names(self._model)
        self._stacks = stacks_at(self._model, found, cut)
        self._owns_store = store is None
        self.store = TrunkStore() if store is None else store
        self._skipping = Skipping([stack.below for stack in self._stacks])
        self._weights: TrunkWeights | None = None
        self._kept: dict[tuple, Kept] = {}
        self._inside = self._padding_is_idle = False
        self._fingerprints: dict[tuple, str] = {}
        self._latest: Kept | None = None
        self._sent = SentAhead()
        self._handles = [
            # In front of all others: some of them take note of the pass that begins, and ours may run another one first.
            model.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True),
            model.register_forward_hook(self._after, always_call=True),
        ]

    def close(self) -> None:
        """Gives the model its layers back. May be called twice."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._skipping.close()
        if self._owns_store:
            self.store.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> Trunk:
        """A copy of the model has no trunk: what its hooks hold is a closed one."""
        closed = object.__new__(Trunk)
        closed._handles, closed._inside = [], False
        return closed

    def __enter__(self) -> Trunk:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def keys(self, batch: Mapping[str, Any]) -> BatchKeys:
        """The keys of a batch that is on the host. A batch that carries them to the model's call, as ``batch["trunk_keys"]``, spares
        a GPU's host the wait for the tokens; :meth:`ahead` or a collate function puts them in."""
        return keys_of(batch, len(self._stacks))

    def ahead(self, batches: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """The batches of a loader, which are on the host, each with its keys. While one of them is trained on, the states of the
        next are copied to the GPU: a step waits neither for the tokens nor for the link.

        ::

            for batch in trunk.ahead(loader):
                model(**to(device, batch)).loss.backward()
        """
        following = None
        for batch in batches:
            keys = batch.get(CARRIED) or self.keys(batch)
            self._send(keys)
            if following is not None:
                yield following
            following = {**batch, CARRIED: keys}
        if following is not None:
            yield following

    # ------------------------------------------------------------------ hooks

    def _before(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        if self._inside or not self._handles:
            return None
        carried = kwargs.pop(CARRIED, None)
        inputs = {**dict(zip(self._names, args, strict=False)), **kwargs}
        if self._needs_all_layers(inputs):
            for block in self._below():
                block.eval()  # as in the passes whose states are kept
            return args, kwargs
        self._inside = True
        try:
            keys = keys_of(inputs, len(self._stacks)) if carried is None else carried
            self._skipping.given = self._spread(self._states(keys, inputs, args, kwargs))
        finally:
            self._inside = False
        return args, kwargs

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._handles or self._inside or self._skipping.given is None:
            return
        self._skipping.given = None
        for name in _REMEMBERED:
            # A ModelOutput lets no item go by itself.
            if isinstance(output, OrderedDict) and name in OrderedDict.keys(output):
                OrderedDict.__delitem__(output, name)
                setattr(output, name, None)

    def _needs_all_layers(self, inputs: Mapping[str, Any]) -> bool:
        config = getattr(self._model, "config", None)
        if inputs.get("use_cache") or any(inputs.get(name) is not None for name in _REMEMBERED):
            return True
        given = {name: inputs.get(name) for name in _ASKED_ANYWHERE}
        return any(getattr(config, name, False) if value is None else value for name, value in given.items())

    # ------------------------------------------------------------------ states

    def _states(self, batch: BatchKeys, inputs: Mapping[str, Any], args: tuple, kwargs: dict[str, Any]) -> list[Tensor]:
        """The hidden states of a batch at the cut, on their devices, for each stack with layers below it."""
        kept = self._latest = self._place(inputs, args, kwargs, batch)
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
            for row, parts in zip(missing, examples_of(states, rows), strict=True):
                # As it will be read: an epoch that computes and one that reads see the same numbers.
                examples[row] = kept.shelf.put(batch.keys[row], parts)
        self.filled += len(missing)
        self.read += len(examples) - len(missing)
        host = batch_of(examples, masks, kept.dtypes, pinned=kept.on_gpu)
        states = [state.to(device, non_blocking=True) for state, device in zip(host, kept.devices, strict=True)]
        if batch.asks_padding and not self._padding_is_idle:
            check_padding(self._model, lambda: self._model(*args, **kwargs), self._spread(states), self._skipping)
            self._padding_is_idle = True
        return states

    def _send(self, batch: BatchKeys) -> None:
        """Starts to copy what will be asked for, if all of it is there and has a way to go."""
        kept = self._latest
        if kept is None or not kept.on_gpu or batch.asks_padding:
            return
        masks = self._own(batch.masks)
        examples = kept.look_up(batch, masks)
        if all(example is not None for example in examples):
            self._sent.send(batch.keys, kept, batch_of(examples, masks, kept.dtypes, pinned=True), kept.devices)

    def _compute(self, rows: list[int], size: int, args: tuple, kwargs: dict[str, Any]) -> list[Tensor]:
        """The hidden states of some examples of a batch, padded as they are in it."""

        def of_rows(value: Any) -> Any:
            return value[rows] if isinstance(value, Tensor) and value.ndim and len(value) == size else value

        if len(rows) < size:
            args, kwargs = tuple(map(of_rows, args)), {name: of_rows(value) for name, value in kwargs.items()}
        states = states_at_cut(self._model, lambda: self._model(*args, **kwargs), self._lasts(), self._skipping)
        return self._own(states)

    def _place(self, inputs: Mapping[str, Any], args: tuple, kwargs: dict[str, Any], batch: BatchKeys) -> Kept:
        """Where the states of this call are kept."""
        if self._weights is not None and self._weights.changed():
            self._kept.clear()
        numerics = numerics_on(next(self._model.parameters()).device)
        if numerics not in self._kept:
            self._kept[numerics] = self._look(numerics, batch, args, kwargs)
        return self._kept[numerics]

    def _look(self, numerics: tuple, batch: BatchKeys, args: tuple, kwargs: dict[str, Any]) -> Kept:
        """Runs the model whole, once, to learn how it is cut."""
        seen = survey(
            self._model,
            lambda: self._model(*args, **kwargs),
            self._lasts(),
            [s.above for s in self._stacks],
            self._skipping,
        )
        states = self._own(seen.states)
        for state, mask in zip(states, self._own(batch.masks), strict=True):
            if state.ndim < 2 or len(state) != len(batch.keys) or (mask is not None and state.shape[:2] != mask.shape):
                raise LayerSelectError(
                    f"the hidden states are {list(state.shape)} for {len(batch.keys)} examples, so they cannot be told apart example "
                    "by example: train with trunk='none'"
                )
        self._weights = TrunkWeights(self._model, list(self._below()), seen.outside)
        self._weights.check_frozen()
        below = [len(stack.below) for stack in self._stacks]
        config = getattr(self._model, "config", None)
        attention = getattr(config, "_attn_implementation", None)
        dtypes = [state.dtype for state in states]
        fingerprint = self._weights.fingerprint(
            {"version": _VERSION, "below": below, "numerics": numerics, "attention": attention}
        )
        if self._fingerprints.setdefault(numerics, fingerprint) != fingerprint:
            self._fingerprints[numerics] = fingerprint
            logger.warning("weights below the cut have changed: what was kept of them is not used any more")
        facts = {
            "model": getattr(config, "_name_or_path", "") or type(self._model).__name__, "cut": self.cut, "layers": self._layers,
            "dtype": str(dtypes[0]).removeprefix("torch."),
        }  # fmt: skip
        half = self.store.precision == "half"
        self.bytes_per_token = sum(s[0, 0].numel() * (2 if half else s.element_size()) for s in states)
        logger.info(
            "hidden states below layer %d of %d are kept as %s, %d bytes a token, and computed in evaluation mode%s",
            self.cut, self._layers, fingerprint[:12], self.bytes_per_token, self._dropout(),
        )  # fmt: skip
        return Kept(self.store.shelf(fingerprint, facts), dtypes, [state.device for state in states])

    def _dropout(self) -> str:
        drops = any(isinstance(m, nn.Dropout) and m.p > 0 for block in self._below() for m in block.modules())
        return " (without the dropout of these layers)" if drops else ""

    def _below(self) -> list[nn.Module]:
        return [block for stack in self._stacks for block in stack.below]

    def _lasts(self) -> list[nn.Module | None]:
        return [stack.below[-1] if stack.below else None for stack in self._stacks]

    def _own(self, values: Sequence[Any]) -> list[Any]:
        """Of values for each stack, those of the stacks with layers below the cut."""
        return [value for value, stack in zip(values, self._stacks, strict=True) if stack.below]

    def _spread(self, values: Sequence[Tensor]) -> list[Tensor | None]:
        """The other way round."""
        own = iter(values)
        return [next(own) if stack.below else None for stack in self._stacks]
