"""Chooses who computes: the compiled core or plain PyTorch."""

from __future__ import annotations

import functools
import importlib
import logging
from types import ModuleType
from typing import Literal

import torch

from . import reference
from .errors import LayerSelectError

logger = logging.getLogger(__name__)

Backend = Literal["auto", "native", "torch"]

_REBUILD = "install a C++ compiler and reinstall layerselect (pip install --no-build-isolation .)"


@functools.cache
def _native() -> ModuleType | str:
    """The compiled module, or the reason why it cannot be used."""
    try:
        return importlib.import_module("layerselect._C")
    except ImportError as error:
        return str(error)


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
        problem = f"layerselect's compiled core cannot be loaded ({module}); {_REBUILD}"
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
    """The module that holds ``segment_sqnorm``, ``variance_split``, ``top_ranked``, ``above``, ``within_budget``, ``GradientMonitor``.

    Both modules offer the same signatures. Arguments and errors are those of :func:`resolve`.
    """
    module = _native() if resolve(backend, device) == "native" else reference
    assert isinstance(module, ModuleType)
    return module
