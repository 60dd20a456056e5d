"""Hidden states on their way to a GPU while it computes the step before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: Batches that may be on their way: the one that comes next, and one that was sent and never asked for.
_MOST = 2


@dataclass
class _Prefetched:
    place: object
    states: list[Tensor]
    arrived: list[torch.cuda.Event]


class Prefetcher:
    """Copies on a stream of their own from pinned memory, so that they overlap with what the GPU computes. The host
    waits for none.
    """

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._sent: dict[tuple[bytes, ...], _Prefetched] = {}

    def send(
        self, keys: tuple[bytes, ...], place: object, host: Sequence[Tensor], devices: Sequence[torch.device]
    ) -> None:
        """Starts to copy the states of a batch.

        Args:
            keys: of its examples.
            place: where they are kept; :meth:`take` has to name the same.
            host: in pinned memory, for each stack.
            devices: where each is to go.
        """
        while len(self._sent) >= _MOST:
            self._sent.pop(next(iter(self._sent)))
        states, arrived = [], []
        for state, device in zip(host, devices, strict=True):
            stream = self._streams.setdefault(device, torch.cuda.Stream(device))
            with torch.cuda.stream(stream):
                states.append(state.to(device, non_blocking=True))
                arrived.append(stream.record_event())
        self._sent[keys] = _Prefetched(place, states, arrived)

    def take(self, keys: tuple[bytes, ...], place: object) -> list[Tensor] | None:
        """The states of a batch that was sent, for use on the current streams; ``None`` if it was not."""
        sent = self._sent.get(keys)
        if sent is None or sent.place is not place:  # of a pass in between, with another adapter
            return None
        del self._sent[keys]
        for state, event in zip(sent.states, sent.arrived, strict=True):
            stream = torch.cuda.current_stream(state.device)
            stream.wait_event(event)
            state.record_stream(stream)  # its memory was taken on the other one
        return sent.states
