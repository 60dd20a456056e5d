"""What a launcher (``torchrun``, ``accelerate launch``) says to the processes that it starts."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from ..errors import LayerSelectError
from .saved_words import shown

_PATIENCE = timedelta(seconds=10)
#: No launcher starts a billion processes.
_DIGITS = 10


def number_of(name: str) -> int | None:
    """What the launcher says in an environment variable; ``None`` where that is no number from 0 on."""
    text = os.environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < _DIGITS else None


def launched() -> int:
    """How many processes were started together; 1 where no launcher said so."""
    return (number_of("WORLD_SIZE") or 1) if "RANK" in os.environ else 1


def check_launcher() -> None:
    """Checks what the launcher says, where it has started several processes.

    Raises:
        LayerSelectError: nothing can be made of it.
    """
    count = launched()
    if count == 1:
        return
    for name, least, most in (("RANK", 0, count - 1), ("LOCAL_RANK", 0, count - 1), ("MASTER_PORT", 1, 65535)):
        found = number_of(name)
        if name == "LOCAL_RANK" and name not in os.environ:  # a process on a machine of its own
            continue
        if found is None or not least <= found <= most:
            raise LayerSelectError(
                f"the launcher says WORLD_SIZE={count} and {name}={shown(os.environ.get(name, ''))}, which is no "
                f"number from {least} to {most}: start the processes with torchrun or accelerate launch"
            )
    if not os.environ.get("MASTER_ADDR", "").strip():
        raise LayerSelectError(
            f"the launcher says WORLD_SIZE={count} and no MASTER_ADDR, where its processes find each other: start them "
            "with torchrun or accelerate launch"
        )


def is_first_of_launch() -> bool:
    """Whether this process is the only one of its run, or the first of those that a launcher started for it."""
    return os.environ.get("RANK", "0") == "0"


def is_asked(name: str) -> bool:
    """Whether the configuration of ``accelerate launch`` has switched something on, by its environment variable."""
    return os.environ.get(name, "").lower() in ("true", "1", "yes")


def launcher_store() -> Any:
    """A store of the launcher's own process, which outlives those that it starts and is new for each of its attempts;
    ``None`` where there is none.
    """
    if launched() == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=_PATIENCE)
    run, attempt = os.environ.get("TORCHELASTIC_RUN_ID", ""), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"layerselect/{run}/{attempt}", store)


def leave_launch() -> None:
    """Closes the connections to the other processes, at the end of a command."""
    if launched() > 1:
        import torch

        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
