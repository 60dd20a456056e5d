"""Chooses who computes: the compiled core or plain PyTorch."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import sys
from types import ModuleType
from typing import Literal

import torch

from . import _built_for, reference
from .errors import LayerSelectError

logger = logging.getLogger(__name__)

Backend = Literal["auto", "native", "torch"]

_CORE = "layerselect._C"
_REBUILD = "rebuild it where its sources are (pip install --no-build-isolation .)"
_INSTALL = "install a C++ compiler and reinstall layerselect (pip install --no-build-isolation .)"


@functools.cache
def _native() -> ModuleType | str:
    """The compiled module, or the reason why it cannot be used and what to do about it."""
    if sys.modules.get(_CORE) is not None:
        return sys.modules[_CORE]
    core = _core_file()
    if core is None:
        return f"layerselect's compiled core cannot be loaded (No module named '{_CORE}'); {_INSTALL}"
    problem = _built_for_another(core)
    if problem is not None:
        return problem
    try:
        return importlib.import_module(_CORE)
    except (ImportError, OSError, SystemError) as error:
        # An undefined symbol, half a file, another machine's code: with the record right, still not a core for here.
        return f"layerselect's compiled core cannot be loaded ({' '.join(str(error).split())}); {_REBUILD}"


def _core_file() -> str | None:
    """Where the compiled core lies, without loading it."""
    spec = importlib.util.find_spec(_CORE)
    return None if spec is None else spec.origin


@functools.cache
def _built_for_another(core: str) -> str | None:
    """Why the core must not be loaded: C++ has no promise between two torches, so loading it could do anything."""
    here = _built_for.running()
    try:
        built_for = _built_for.in_library(core)
    except OSError as error:
        return f"layerselect's compiled core cannot be read ({core}: {error.strerror or error}); {_REBUILD}"
    if built_for is None:
        return f"layerselect's compiled core ({core}) does not say which torch it was compiled for; {_REBUILD}"
    if not built_for.fits(here):
        return f"layerselect's compiled core was compiled for {built_for} and here is {here}; {_REBUILD}"
    return None


def say_if_built_for_another() -> None:
    """The warning that a core is there and cannot be used, once and as soon as anything is imported that would use
    it.
    """
    core = None if sys.modules.get(_CORE) is not None else _core_file()
    problem = None if core is None else _built_for_another(core)
    if problem is not None:
        _log_fallback(problem)


def native_module() -> ModuleType | None:
    """The compiled module, where there is one."""
    module = _native()
    return None if isinstance(module, str) else module


def resolve(backend: str = "auto", device: torch.device | str = "cpu") -> Literal["native", "torch"]:
    """Which backend :func:`load` would give: ``"native"`` or ``"torch"``.

    Args:
        backend: ``"native"`` (the compiled core), ``"torch"`` (plain PyTorch), or ``"auto"``: the first where it
            exists for ``device``.
        device: where the gradients are.

    Raises:
        LayerSelectError: ``backend`` is unknown, or ``"native"`` is asked for where it cannot run.
    """
    if backend not in ("auto", "native", "torch"):
        raise LayerSelectError(f'backend={backend!r} is unknown; use "auto", "native" or "torch"')
    if backend == "torch":
        return "torch"
    kind = torch.device(device).type
    module = _native()
    if isinstance(module, str):
        problem = module
    elif kind == "cuda" and not module.has_cuda_kernels():
        problem = (
            "layerselect was built without CUDA kernels; reinstall it where nvcc and a CUDA build of torch are "
            "('layerselect doctor' shows both)"
        )
    elif kind not in ("cpu", "cuda"):
        problem = f"layerselect's compiled core has no kernels for device {kind!r}"
    else:
        return "native"
    if backend == "native":
        raise LayerSelectError(f'backend="native": {problem}, or use backend="torch"')
    _log_fallback(problem)
    return "torch"


@functools.cache  # one line for each reason, not one for each selector
def _log_fallback(problem: str) -> None:
    logger.warning('%s; using backend="torch", which is slower', problem)


def load(backend: str = "auto", device: torch.device | str = "cpu") -> ModuleType:
    """The module that holds ``segment_sqnorm``, ``variance_split``, ``top_ranked``, ``above``, ``within_budget``,
    ``GradientMonitor``.

    Both modules offer the same signatures. Arguments and errors are those of :func:`resolve`.
    """
    module = _native() if resolve(backend, device) == "native" else reference
    assert isinstance(module, ModuleType)
    return module


say_if_built_for_another()
