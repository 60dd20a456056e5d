"""Which cached hidden states a batch needs, known before the batch is on the device; and their reading ahead.

Keys are made in the collator, of tensors on the host: in the processes that make batches (``--workers``), else in
front of the step. They ride in the batch to the model's call, so no tensor of the device is read for them, and the
host waits for nothing. Only where a model does not pass over padding, so that its rows are read in groups, are they
made in the step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from ...layers.find import split_parameters
from ...models.running import base_of, positions, takes
from ...models.traits import traits_of
from ...state_cache import CARRIED, BatchKeys, StateCache
from ...state_cache.cut import is_number
from ...state_cache.stacks import KeyKind, key_kind, stacks_at
from ..text.completions import WEIGHTS, with_answers
from .settings import TrainingSettings
from .shared_batches import COUNTS

#: In a batch: what is added to the logits of each example.
OFFSET = "offset"
#: Of a batch, what no model is given.
NOT_GIVEN = frozenset({"labels", "answer_ids", "answer_mask", WEIGHTS, COUNTS, OFFSET})

Collate = Callable[[Sequence[Any]], dict[str, Any]]
Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class KindsOfKeys:
    """What a batch carries: its keys, of each kind that may be asked for."""

    keys: Mapping[KeyKind, BatchKeys]


class KeyedCollator:
    """A collator whose batches carry their keys. It holds no model, so it may go to another process.

    Args:
        collate: makes the batches.
        kinds: of :func:`key_kinds`.
        called: from a batch to what the model is called with.
    """

    def __init__(self, collate: Collate, kinds: frozenset[KeyKind], called: Callable[[Inputs], Inputs]) -> None:
        self._collate, self._kinds, self._called = collate, kinds, called

    def __call__(self, items: Sequence[Any]) -> dict[str, Any]:
        batch = dict(self._collate(items))
        inputs = self._called(batch)
        batch[CARRIED] = KindsOfKeys({kind: kind.keys_of(inputs) for kind in self._kinds})
        return batch


def keyed(collate: Collate, model: nn.Module, settings: TrainingSettings, *, completes: bool) -> Collate:
    """The collator of a run: with a cache, one whose batches carry their keys.

    Args:
        completes: the loss is that of answers behind prompts, not of a classification head.
    """
    kinds = key_kinds(model, settings)
    if not kinds:
        return collate
    called = partial(_of_answers, positioned=takes(base_of(model), "position_ids")) if completes else _of_inputs
    return KeyedCollator(collate, kinds, called)


def _of_inputs(batch: Inputs) -> Inputs:
    return {name: value for name, value in batch.items() if name not in NOT_GIVEN}


def _of_answers(batch: Inputs, *, positioned: bool) -> Inputs:
    ids, mask = with_answers(batch, batch["answer_ids"], batch["answer_mask"])
    inputs = {"input_ids": ids, "attention_mask": mask}
    return {**inputs, "position_ids": positions(mask, ids.shape[1])} if positioned else inputs


def key_kinds(model: nn.Module, settings: TrainingSettings) -> frozenset[KeyKind]:
    """The kinds of keys that a run may ask for: two where the cut is not known yet and may be in a decoder or below it.
    None without a cache.
    """
    if settings.state_cache == "none" or not traits_of(base_of(model)).pads:
        return frozenset()
    layers = [model.get_submodule(name) for name in split_parameters(model).names]
    cuts = {int(settings.cut)} if is_number(settings.cut) else {1, len(layers) - 1}
    return frozenset(key_kind(model, stacks_at(model, layers, cut)) for cut in cuts if 1 <= cut < len(layers))


class CacheReader:
    """What a Trainer's loops do for the cache of hidden states: give the model the keys that it asks for, and send the
    states of the next batch to the device while it computes.

    Args:
        current: the cache that is open now, if there is one.
    """

    def __init__(self, current: Callable[[], StateCache | None]) -> None:
        self._current = current
        self._source: Iterator[Any] | None = None
        self._ahead: _Ahead | None = None

    def given(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with the keys that the model asks for, or without any."""
        carried = batch.get(CARRIED)
        if not isinstance(carried, KindsOfKeys):
            return batch
        keys, rest = self._asked(carried), {name: value for name, value in batch.items() if name != CARRIED}
        return rest if keys is None else {**rest, CARRIED: keys}

    def training(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches of an epoch, of which one more is always known than is given. Called for every step with what the
        loader gives, it goes on where it was.
        """
        if self._ahead is None or self._source is not batches:
            self._source, self._ahead = batches, _Ahead(batches)
        return self._ahead

    def trained(self) -> None:
        """Sends the states of the batch that comes next. To be called when the work on one has been handed to the
        device.
        """
        if self._ahead is not None:
            self._send(self._ahead.following())

    def evaluating(self, loader: Any) -> Any:
        """The loader of an evaluation, which sends what it is asked for: that is one batch ahead of the model."""
        inner = getattr(loader, "base_dataloader", None)
        if inner is not None and not isinstance(inner, _Sending):
            loader.base_dataloader = _Sending(inner, self._send)
        return loader

    def _asked(self, carried: Any) -> BatchKeys | None:
        cache = self._current()
        return None if cache is None or not isinstance(carried, KindsOfKeys) else carried.keys.get(cache.key_kind)

    def _send(self, batch: Mapping[str, Any] | None) -> None:
        cache = self._current()
        keys = None if batch is None else self._asked(batch.get(CARRIED))
        if cache is not None and keys is not None:
            cache.send(keys)


class _Ahead(Iterator[Any]):
    """An iterator that has fetched one batch more than it has given, and knows which are not trained on yet."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches, self._waiting = batches, deque[Any]()
        self._fetched: deque[Any] = deque()
        self._fetch()

    def __next__(self) -> Any:
        if not self._fetched:
            raise StopIteration
        batch = self._fetched.popleft()
        self._fetch()
        return batch

    def following(self) -> Any | None:
        """The batch behind the one that was trained on last, which it forgets."""
        if self._waiting:
            self._waiting.popleft()
        return self._waiting[0] if self._waiting else None

    def _fetch(self) -> None:
        try:
            batch = next(self._batches)
        except StopIteration:
            return
        self._fetched.append(batch)
        self._waiting.append(batch)


class _Sending:
    """A loader that tells of each batch that is asked of it."""

    def __init__(self, loader: Any, tell: Callable[[Any], None]) -> None:
        self._loader, self._tell = loader, tell

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            self._tell(batch)
            yield batch

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
