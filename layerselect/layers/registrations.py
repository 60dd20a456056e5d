"""Notices that something was registered on a module, so that nobody has to walk a model that has not grown."""

from __future__ import annotations

import weakref
from typing import Any

from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)


class Registrations:
    """Whether, since the last look, a parameter or a module was registered on any module of the process: a layer added,
    an adapter injected, a weight replaced. Torch tells of these through hooks that it calls for all modules. What is
    written into ``module._parameters`` by hand is not told.
    """

    def __init__(self) -> None:
        self._happened = True
        tell = _Tell(self)
        handles = [
            register_module_parameter_registration_hook(tell),
            register_module_module_registration_hook(tell),
        ]
        self.close = weakref.finalize(self, _remove, handles)
        self.close.atexit = False

    def happened(self) -> bool:
        """True at the first look; then whether something was registered since the last one."""
        happened, self._happened = self._happened, False
        return happened


class _Tell:
    """The hook, which does not keep the watcher alive."""

    def __init__(self, watcher: Registrations) -> None:
        self._watcher = weakref.ref(watcher)

    def __call__(self, *_: Any) -> None:
        watcher = self._watcher()
        if watcher is not None:
            watcher._happened = True


def _remove(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()
