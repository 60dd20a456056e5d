"""Optional packages, imported where they are used, with a message that says how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType

from ..errors import LayerSelectError


def require(module: str, purpose: str) -> ModuleType:
    """Import `module`, or say in one sentence what it is needed for and how to install it.

    Raises:
        LayerSelectError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise LayerSelectError(
            f"{purpose} needs the package '{package}', which cannot be imported here ({error}): "
            "pip install 'layerselect[data]'"
        ) from error
