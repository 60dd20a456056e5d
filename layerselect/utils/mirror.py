"""Values that a device made, on the host some steps later, without waiting for the step in flight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import LayerSelectError
from .saved_schema import Fields, Whole, check
from .saved_tensors import Numbers

_KINDS = {"int64": "int", "float64": "float", "float32": "float"}


class Arrival:
    """Says when a copy from a device has arrived on the host.

    A copy runs on the current stream of the device that it is made from, which need not be the current device: where a
    model stands on the second GPU, an event without a stream is recorded on the first one, and says nothing of the
    copy.

    Args:
        device: that the copies come from, until :meth:`mark` names another one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._event = torch.cuda.Event()

    def mark(self, device: torch.device) -> None:
        """Call it behind the copy: what was started on that device's current stream until now is what is waited for."""
        if device != self._device:  # an event stays with the device on which it was first recorded
            self._device, self._event = device, torch.cuda.Event()
        try:
            stream = torch.cuda.current_stream(device)
        except AssertionError:  # a torch without CUDA has no streams, and copied before it returned
            return
        self._event.record(stream)

    def is_there(self) -> bool:
        """Whether the copy has arrived; the host waits for nothing."""
        arrived: bool = self._event.query()
        return arrived

    def wait(self) -> None:
        """Makes the host wait until the copy has arrived."""
        self._event.synchronize()


class Mirror:
    """The copy on the host of a vector that a device makes, ``lag`` steps old. Reading it waits for no newer step.

    Args:
        length: of the vector.
        lag: how many pushes old a vector is when it is read; fixed, so that runs repeat bit for bit.
        device: where the vector is made. On the CPU there is nothing to wait for.
        dtype: of the vector.

    Raises:
        LayerSelectError: a negative lag.
    """

    def __init__(self, length: int, lag: int, device: torch.device, dtype: torch.dtype = torch.bool) -> None:
        if lag < 0:
            raise LayerSelectError(f"lag={lag!r} is not a whole number of at least 0")
        self._lag = lag
        self._device = device
        cuda = device.type == "cuda"
        self._rows = torch.zeros((lag + 1, length), dtype=dtype, pin_memory=cuda)
        self._arrived: list[Arrival] = [Arrival(device) for _ in range(lag + 1)] if cuda else []
        self._pushed = 0

    def push(self, values: Tensor) -> None:
        """Starts the copy of a vector to the host, on the current stream of the device that the vector is on."""
        slot = self._pushed % (self._lag + 1)
        self._rows[slot].copy_(values, non_blocking=True)
        if self._arrived:
            self._arrived[slot].mark(values.device if values.is_cuda else self._device)
        self._pushed += 1

    def read(self) -> list[Any] | None:
        """The vector pushed ``lag`` pushes before the last one, as Python values; None if there is none yet."""
        if self._pushed <= self._lag:
            return None
        slot = (self._pushed - 1 - self._lag) % (self._lag + 1)
        if self._arrived:
            self._arrived[slot].wait()
        return self._rows[slot].tolist()

    def state_dict(self) -> dict[str, Any]:
        """Waits for the copies that are on their way."""
        for arrived in self._arrived:
            arrived.wait()
        return {"rows": self._rows.clone(), "pushed": self._pushed}

    def check_state(self, state: Any, where: str) -> None:
        """Whether :meth:`load_state_dict` can take it.

        Raises:
            Mismatch: it is no such state.
            LayerSelectError: the state was saved with another lag or length.
        """
        dtype = str(self._rows.dtype).removeprefix("torch.")
        check(Fields({"rows": Numbers(_KINDS.get(dtype, dtype), (None, None)), "pushed": Whole()}), state, where)
        if state["rows"].shape != self._rows.shape:
            raise LayerSelectError(
                f"the saved values are {len(state['rows']) - 1} steps late and of length {state['rows'].shape[1]}, "
                f"here they are {self._lag} late and of length {self._rows.shape[1]}: resume on the kind of device "
                "that saved them"
            )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues there, where :meth:`check_state` finds nothing wrong."""
        self._rows.copy_(state["rows"])
        self._pushed = int(state["pushed"])
