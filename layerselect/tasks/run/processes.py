"""The processes of one run, as a launcher (``torchrun``, ``accelerate launch``) has started them.

All of them do the same in the same order, and the first one writes. What they tell each other on the host goes through
the store that the process group was set up with: a process that waits there also hears that another one has failed,
and no collective is left open for one that is gone.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState

from ...errors import LayerSelectError
from ...utils.launch import check_launcher, launched, launcher_store
from ...utils.saved_words import in_words, shown

#: Seconds between two looks into the store.
_LOOK = 0.02
#: Seconds for which the first process waits for the others to leave.
_FAREWELL = 10.0
#: How long a collective waits for the others.
_PATIENCE = timedelta(minutes=30)
#: What backends say where another process is gone.
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo", "NCCL", "TCPStore")
_GONE = (
    "another process of this run has ended without a word: look for its end in the launcher's output, then continue "
    "with the same command and --resume"
)


class Processes:
    """The processes of a run, seen from one of them. A process that is alone waits for nobody.

    Args:
        store: of the process group; ``None`` for a process that is alone.
        rank: the number of this process.
        count: how many there are.
    """

    def __init__(self, store: Any = None, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count, self._store = rank, count, store
        # Each process counts its runs, and all count alike: a run may be inside of another one, or follow one.
        self._place = f"layerselect/run/{store.add(f'layerselect/runs/{rank}', 1)}" if store is not None else ""
        self._told = 0

    @classmethod
    def join(cls, device: str) -> Processes:
        """Waits until all processes of the launch are there.

        Args:
            device: ``cpu`` or ``cuda``, which decides how they are connected.

        Raises:
            LayerSelectError: they cannot be connected.
        """
        if launched() == 1:
            return cls()
        check_launcher()
        distributed = torch.distributed
        if not distributed.is_initialized():
            _wait_for_all()
        _connect(device)
        store = distributed.distributed_c10d._get_default_store()
        return cls(store, distributed.get_rank(), distributed.get_world_size())

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """What each process gives here, a JSON value, in their order. All of them must call it.

        Raises:
            LayerSelectError: another process has failed meanwhile; in its words.
        """
        if self.count == 1:
            return [value]
        self._told += 1
        keys = [f"{self._place}/{self._told}/{rank}" for rank in range(self.count)]
        self._store.set(keys[self.rank], json.dumps(value))
        while not self._store.check(keys):
            heard = self._heard()
            if heard is not None:
                raise LayerSelectError(heard)
            time.sleep(_LOOK)
        return [json.loads(self._store.get(key)) for key in keys]

    def leave(self) -> None:
        """Lets the first process, which may hold the store, end after the others have stopped asking there."""
        if self.count == 1:
            return
        key, until = f"{self._place}/left", time.monotonic() + _FAREWELL
        if not self.is_first:
            self._store.add(key, 1)
            return
        while self._store.add(key, 0) < self.count - 1 and time.monotonic() < until:
            time.sleep(_LOOK)

    def meet(self) -> None:
        """Waits until all have come so far."""
        self.gather(None)

    def from_first(self, value: Callable[[], Any]) -> Any:
        """What the first process gets from a call that only it makes, a JSON value; the others wait for it."""
        return self.gather(value() if self.is_first else None)[0]

    def check_same(self, values: Mapping[str, Any]) -> None:
        """Checks that all processes have the same of each.

        Args:
            values: JSON values, by what the user calls them.

        Raises:
            LayerSelectError: they do not. All processes raise it, with the same sentence.
        """
        first, *others = self.gather(dict(values))
        for rank, other in enumerate(others, start=1):
            for name, theirs in other.items():
                if theirs != first.get(name):
                    raise LayerSelectError(
                        f"process {rank} of {self.count} has {name} {in_words(theirs)} and process 0 has "
                        f"{in_words(first.get(name))}: start every process with the same options, data and model"
                    )

    def check_joined(self, count: int) -> None:
        """Checks that the trainer works with all processes; else each would train a model of its own.

        Args:
            count: how many processes the trainer knows of.

        Raises:
            LayerSelectError: it knows of others.
        """
        if count != self.count:
            raise LayerSelectError(
                f"the Trainer works with {count} of the {self.count} processes that were started together: say where "
                "they train, with --device cpu or --device cuda"
            )

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Lets the others know if this process fails in the block, and says what happened where another one has."""
        if self.count == 1:
            yield
            return
        try:
            yield
        except LayerSelectError as error:
            self._tell(str(error))
            raise
        except Exception as error:
            heard = self._heard()
            if heard is None and not _is_loss(error):
                self._tell(f"process {self.rank} has failed: {type(error).__name__}")
                raise
            self._tell(_GONE)
            raise LayerSelectError(heard or _GONE) from error
        except BaseException:
            self._tell(f"process {self.rank} was asked to stop: continue with the same command and --resume")
            raise

    def _heard(self) -> str | None:
        """What the first process that has failed says; ``None`` as long as none has."""
        key = f"{self._place}/failed"
        try:
            return self._store.get(key).decode() if self._store.check([key]) else None
        except (RuntimeError, OSError):  # it went with the process that kept it
            return _GONE

    def _tell(self, sentence: str) -> None:
        try:
            self._store.compare_set(f"{self._place}/failed", "", sentence)
        except (RuntimeError, OSError):
            return


#: A process that no launcher has started.
ALONE = Processes()


def _wait_for_all() -> None:
    """Waits until all processes are about to be connected, where the launcher can say so: whoever waits here can be
    stopped, and in the connecting cannot.
    """
    store = launcher_store()
    if store is not None:
        store.add("there", 1)
        while store.add("there", 0) < launched():
            time.sleep(_LOOK)


def _connect(device: str) -> None:
    try:
        PartialState(cpu=device == "cpu", timeout=_PATIENCE)
    except (RuntimeError, ValueError, OSError) as error:
        where = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
        raise LayerSelectError(
            f"{launched()} processes were started and cannot be connected at {shown(where)} "
            f"({shown(str(error).strip())}): start all of them with one launcher, such as torchrun"
        ) from error


def _is_loss(error: Exception) -> bool:
    """Whether an error says that another process, or the store, is gone."""
    if isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _LOST)
