"""What is tried: all cases, in the order of the table."""

from __future__ import annotations

from . import case_adapters, case_engines, case_frameworks, case_optimizers, case_run, case_scripts
from .case import Case


def all_cases() -> list[Case]:
    """Every case, in the order of the table."""
    parts = (case_frameworks, case_optimizers, case_adapters, case_engines, case_scripts, case_run)
    cases = [case for part in parts for case in part.cases()]
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)
    return cases
