"""Lets pytest collect bench_*.py."""

from __future__ import annotations

import fnmatch
from pathlib import Path

import pytest


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    named = fnmatch.fnmatch(file_path.name, "bench_*.py")
    known = any(fnmatch.fnmatch(file_path.name, pattern) for pattern in parent.config.getini("python_files"))
    if not named or known or parent.session.isinitpath(file_path):
        return None
    return pytest.Module.from_parent(parent, path=file_path)
