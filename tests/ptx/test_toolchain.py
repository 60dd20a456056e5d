"""Several workers of one suite ask for the same compiled file at the same moment."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.ptx.toolchain import Toolchain

WORKERS = 4


@pytest.fixture
def compiler(tmp_path: Path) -> Path:
    """A compiler that takes a moment, and writes a line for each time that it was called."""
    script = tmp_path / "nvcc"
    last_argument = "for output; do :; done"
    script.write_text(f'#!/bin/sh\n{last_argument}\necho >> "{tmp_path}/calls"\nsleep .2\necho PTX > "$output"\n')
    script.chmod(0o755)
    return script


def test_workers_that_ask_at_once_get_one_file(compiler: Path, tmp_path: Path):
    def ask(_: int) -> str:
        return Toolchain(compiler, tmp_path / "cache").ptx("sm_90")

    with ThreadPoolExecutor(WORKERS) as pool:
        assert list(pool.map(ask, range(WORKERS))) == ["PTX\n"] * WORKERS
    assert (tmp_path / "calls").read_text() == "\n"


def test_a_compiler_that_fails_leaves_no_file(compiler: Path, tmp_path: Path):
    toolchain = Toolchain(compiler, tmp_path / "cache")
    working = compiler.read_text()
    compiler.write_text("#!/bin/sh\necho no such option >&2\nexit 1\n")
    with pytest.raises(RuntimeError, match="no such option"):
        toolchain.ptx("sm_90")
    compiler.write_text(working)
    assert toolchain.ptx("sm_90") == "PTX\n"
