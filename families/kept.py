"""What is kept of the families: one file each, so that a run that was interrupted goes on where it was."""

from __future__ import annotations

import hashlib
import json
import time
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".families"


@cache
def package() -> str:
    """Changes with the code of the package and with that of the trials."""
    files = [
        *ROOT.joinpath("layerselect").rglob("*.py"),
        *(ROOT / "families" / name for name in ("small.py", "trial.py")),
    ]
    return hashlib.sha256("\0".join(path.read_text() for path in sorted(files)).encode()).hexdigest()[:16]


def result_of(family: str) -> dict[str, Any] | None:
    """What is kept of a family; ``None`` where it was not tried."""
    path = FOLDER / f"{family}.json"
    return json.loads(path.read_text()) if path.exists() else None


def keep(family: str, ended: str = "") -> None:
    """Tries a family and files what came of it.

    Args:
        ended: why the process that tried it says nothing; it is filed without a trial.
    """
    began, worked = time.monotonic(), time.process_time()
    if ended:
        found: dict[str, Any] = {
            "kind": "",
            "builds": "",
            "tasks": {"classifier": {"result": "wrong", "sentence": ended, "said": []}},
        }
    else:
        from .trial import try_family

        found = try_family(family)
    FOLDER.mkdir(exist_ok=True)
    target = FOLDER / f"{family}.json"
    content = {
        "family": family,
        "package": package(),
        "seconds": round(time.monotonic() - began, 1),
        "processor_seconds": round(time.process_time() - worked, 1),
        **found,
    }
    target.with_suffix(".part").write_text(json.dumps(content, indent=1))
    target.with_suffix(".part").replace(target)
