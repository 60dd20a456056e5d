"""What a launcher (``torchrun``, ``accelerate launch``) says to the processes that it starts."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

_PATIENCE = timedelta(seconds=10)


def launched() -> int:
    """How many processes were started together; 1 where no launcher said so."""
    count = os.environ.get("WORLD_SIZE", "1")
    return int(count) if count.isascii() and count.isdigit() and "RANK" in os.environ else 1


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
