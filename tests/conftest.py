"""What all tests share: seeds, threads, the two backends, and skips that say why."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from layerselect import _backend

from tests.helpers.monitored import Stack

# The same examples on every run: a failure that nobody can repeat helps nobody.
hypothesis.settings.register_profile("layerselect", deadline=None, derandomize=True)
hypothesis.settings.load_profile("layerselect")


# Workers share the cores out already. The variable is for the commands, which take all cores where nothing is said.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_when)
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device"))


#: Its first test starts the checks of all files in several processes, which take minutes.
_FIRST = "distributed/test_sums.py"
#: They train for most of their time, so they do not begin when the rest has ended.
_EARLY = ("tasks/", "cli/", "report/", "card/", "project/")
#: They look at what the checks have found.
_LAST = "distributed/"


def _when(item: pytest.Item) -> int:
    """When the file of a test is begun, so that no worker is left with a long one at the end."""
    here = Path(__file__).parent
    path = item.path.relative_to(here).as_posix() if item.path.is_relative_to(here) else ""
    if path.startswith(_LAST):
        return 0 if path == _FIRST else 3
    return 1 if path.startswith(_EARLY) else 2


def native_is_built() -> bool:
    return not isinstance(_backend._native(), str)


@pytest.fixture(params=["native", "torch"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend in turn; the compiled one is skipped where it was not built (test_ops_backend.py fails for that)."""
    if request.param == "native" and not native_is_built():
        pytest.skip("the compiled core layerselect._C is not built")
    return request.param


@pytest.fixture
def ops_of(backend: str):
    """The backend's module: ``segment_sqnorm``, ``variance_split``, ``GradientMonitor`` and so on."""
    return _backend.load(backend, "cpu")


@pytest.fixture
def native():
    """The compiled module, for tests that concern it alone."""
    if not native_is_built():
        pytest.skip("the compiled core layerselect._C is not built")
    return _backend.load("native", "cpu")


@pytest.fixture
def watch(ops_of) -> Callable:
    """Makes a monitor of a ``monitored.Stack``: one group for each block, one for the head."""

    def make(model: Stack, **options):
        return ops_of.GradientMonitor(list(model.parameters()), model.groups(), 5, **options)

    return make


@pytest.fixture(autouse=True, scope="module")
def what_is_imported_is_not_searched_for_garbage() -> None:
    """The Trainer collects garbage after each training, and looks through a million objects of torch and transformers
    for it.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def flush() -> Iterator[Callable[[int], None]]:
    """No test cuts the power, so none waits until the disk holds what it wrote; gives ``os.fsync`` to those that look
    at it.
    """
    real = os.fsync
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield real


@pytest.fixture(autouse=True)
def repeatable() -> Iterator[None]:
    """The same random numbers for each test, whichever ran before, and one thread unless a test sets more."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def environment() -> dict[str, str]:
    """A copy of the environment for tests that start another Python."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny decoder saved as a folder."""
    from tests.helpers import tiny_intent

    return tiny_intent.save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.helpers import tiny_intent  # transformers, for those who need it

    return tiny_intent.save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def corpus_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.helpers import tiny_intent  # transformers, for those who need it

    return tiny_intent.corpus_file(tmp_path_factory.mktemp("corpus"))
