"""What is kept of the cases: one file each, so that a run that was interrupted goes on where it was."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import Any

from .case import SAID, Case
from .environments import FOLDER, ROOT

RESULTS_FOLDER = FOLDER / "results"
PROGRAMS = ROOT / "frameworks" / "programs"


def fingerprint(case: Case) -> str:
    """Changes where the case or its program does, so that it is run anew; comments and layout do not count."""
    program = ast.dump(ast.parse(PROGRAMS.joinpath(f"{case.program}.py").read_text()))
    return _digest(json.dumps(asdict(case), sort_keys=True), program)


@cache
def package() -> str:
    """Changes with the code of the package itself."""
    files = [path for folder in ("layerselect", "csrc") for path in ROOT.joinpath(folder).rglob("*")]
    kinds = (".py", ".cpp", ".h", ".cu", ".cuh")
    return _digest(*(path.read_text() for path in sorted(files) if path.suffix in kinds))


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def result_of(case: Case) -> dict[str, Any] | None:
    """What is kept of a case; ``None`` where it was not run, or differs by now."""
    path = RESULTS_FOLDER / f"{case.name}.json"
    if not path.exists():
        return None
    kept = json.loads(path.read_text())
    return kept if kept["fingerprint"] == fingerprint(case) else None


def is_right(case: Case, kept: Mapping[str, Any]) -> bool:
    """Whether a case came out as it should."""
    if kept["result"] not in (*case.right, "untried"):
        return False
    return kept["result"] not in SAID or re.search(case.says, kept["sentence"]) is not None


def keep(case: Case, outcome: Mapping[str, Any], started: float) -> dict[str, Any]:
    """Files what came of a case that was begun at ``started`` (of ``time.monotonic``)."""
    kept = {
        **outcome,
        "package": package(),
        "case": case.name,
        "fingerprint": fingerprint(case),
        "seconds": round(time.monotonic() - started, 1),
    }
    RESULTS_FOLDER.mkdir(parents=True, exist_ok=True)
    target = RESULTS_FOLDER / f"{case.name}.json"
    target.with_suffix(".part").write_text(json.dumps(kept, indent=1))
    target.with_suffix(".part").replace(target)
    return kept
