"""A plugin of pytest that collects the blocks of pages: one test for each, a file for each page.

    python -m pytest -p docs_tests.plugin docs_tests README.md docs -n 2 --dist loadfile

The blocks of a page run in order, in one namespace and one folder.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from . import preludes
from .blocks import ROOT, Block, blocks_of, pages
from .warm import write_caller

# The models of the pages are tiny: more threads would only disturb the other worker.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")

#: Commands whose training may be shortened by <!-- docs-test: with ... -->.
_TRAINING = re.compile(r"(layerselect (?:demo|intent|revise|compare|card)\b(?! diff))")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    return PageFile.from_parent(parent, path=file_path) if file_path in pages() else None


def pytest_unconfigure(config: pytest.Config) -> None:
    programs = config.stash.get(_PROGRAMS, None)
    if programs is not None:
        programs.close()


class PageFile(pytest.File):
    """One page, with the folder and the names that its blocks share."""

    def collect(self) -> Iterator[pytest.Item]:
        for block in blocks_of(self.path):
            yield BlockItem.from_parent(self, name=f"line {block.line}", block=block)

    def setup(self) -> None:
        self.failed: Block | None = None
        self.missing = ""  # the package that the last block, and those that go on from it, had needed
        self._holder = TemporaryDirectory(prefix="page-", ignore_cleanup_errors=True)
        self.folder = Path(self._holder.name)
        module = types.ModuleType(f"docs_page_{self.path.stem.replace('-', '_')}")
        sys.modules[module.__name__] = module  # where dataclasses and pickle look for it
        self.names: dict[str, Any] = vars(module)

    def teardown(self) -> None:
        self._holder.cleanup()


class BlockItem(pytest.Item):
    """One block."""

    def __init__(self, *, block: Block, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.block = block

    def runtest(self) -> None:
        block, page = self.block, self.parent
        assert isinstance(page, PageFile)
        if block.skip:
            pytest.skip(f"{block.page}:{block.line}: {block.skip}")
        if page.failed is not None:
            pytest.fail(f"the block in line {page.failed.line} failed, and this one needs it", pytrace=False)
        page.missing = "" if block.preludes else page.missing
        if page.missing:
            pytest.skip(page.missing)
        before = Path.cwd()
        os.chdir(page.folder)
        try:
            for prelude in block.preludes:
                getattr(preludes, prelude)(page.names)
            if block.language == "python":
                lines = "\n" * (block.line - 1) + block.code  # so that a traceback names the line of the page
                exec(compile(lines, str(ROOT / block.page), "exec"), page.names)
            else:
                self._run_shell(page.folder)
        except pytest.skip.Exception as skipped:
            page.missing = str(skipped)
            raise
        except BaseException:
            page.failed = block
            raise
        finally:
            os.chdir(before)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.block.line, f"{self.block.page}:{self.block.line}"

    def _run_shell(self, folder: Path) -> None:
        block = self.block
        code = _TRAINING.sub(rf"\1 {block.options}", block.code) if block.options else block.code
        programs = self.config.stash.setdefault(_PROGRAMS, None) or Programs()
        self.config.stash[_PROGRAMS] = programs
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code],
            cwd=folder,
            env={
                **os.environ,
                "PATH": f"{programs.folder}{os.pathsep}{os.environ['PATH']}",
                "LAYERSELECT_CACHE": str(folder / "cache"),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            told = f"{block.page}:{block.line} ended with {done.returncode}:\n{code}\n{done.stdout}{done.stderr}"
            pytest.fail(told, pytrace=False)


class Programs:
    """A folder with the programs ``layerselect`` and ``python`` of this interpreter and this checkout."""

    def __init__(self) -> None:
        self._holder = TemporaryDirectory(prefix="bin-")
        self.folder = Path(self._holder.name)
        path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        python = self.folder / "python"
        python.write_text(f'#!/bin/sh\nPYTHONPATH="{path}" exec "{sys.executable}" "$@"\n', encoding="utf-8")
        python.chmod(0o755)
        place = self.folder / "socket"
        write_caller(self.folder / "layerselect", place)
        self._warm = subprocess.Popen([str(python), "-m", "docs_tests.warm", str(place)], cwd=ROOT)
        while not place.exists():
            if self._warm.poll() is not None:
                raise RuntimeError("docs_tests.warm ended before it began")
            time.sleep(0.05)

    def close(self) -> None:
        self._warm.terminate()
        self._warm.wait()
        self._holder.cleanup()


_PROGRAMS = pytest.StashKey["Programs | None"]()
