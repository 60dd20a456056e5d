"""axolotl: a plugin that is named in its YAML, and gives the Trainer a ``SelectorCallback``.

axolotl imports this module where a configuration names :class:`LayerSelectPlugin` in ``plugins:``; nothing else here
imports it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from axolotl.integrations.base import BasePlugin
from pydantic import BaseModel

from ..utils.launch import is_first_of_launch
from .outcome import OutcomeCallback, Selected
from .plugin_options import options_of

#: axolotl shows what is said below warnings only of loggers under its own name.
_logger = logging.getLogger("axolotl.layerselect")


class LayerSelectArgs(BaseModel):
    """The keys of the YAML, as axolotl adds them to its own.

    Attributes:
        layerselect_rule: the rule, with its options: ``"variance"``, ``"topk:k=4"``.
        layerselect_mode: ``"auto"``, ``"freeze"``, ``"gate"`` or ``"observe"``.
        layerselect_options: other arguments of :class:`~layerselect.FastSelector` or of
            :class:`~layerselect.integrations.transformers.SelectorCallback`.
    """

    layerselect_rule: str | None = None
    layerselect_mode: str | None = None
    layerselect_options: dict[str, Any] | None = None


class LayerSelectPlugin(BasePlugin):  # type: ignore[misc]
    """Selects layers in the Trainer that axolotl makes.

    ::

        plugins:
          - layerselect.integrations.axolotl.LayerSelectPlugin
        layerselect_rule: variance
        layerselect_mode: freeze
        layerselect_options:
          probe_every: 50

    Whatever is wrong with these keys is said before models and data are loaded. At the end of a training axolotl's log
    says what was selected, and what it saved.
    """

    def register(self, cfg: Mapping[str, Any]) -> None:
        """Refuses what no selector takes; axolotl shows us its configuration as the user wrote it.

        Raises:
            LayerSelectError: of :func:`options_of`.
        """
        options_of(cfg)

    def get_input_args(self) -> str:
        """The keys of ours, by the path of their model: axolotl drops those that no model has."""
        return f"{__name__}.{LayerSelectArgs.__name__}"

    def add_callbacks_pre_trainer(self, cfg: Mapping[str, Any], model: Any) -> list[Any]:
        """A callback for the Trainer that is about to be made.

        axolotl keeps a plugin for as long as its process lives, and asks it under configurations that do not name it.
        """
        if f"{type(self).__module__}.{type(self).__qualname__}" not in (cfg.get("plugins") or ()):
            return []
        return [OutcomeCallback(_log, **options_of(cfg))]


def _log(outcome: Selected) -> None:
    if is_first_of_launch():
        for line in outcome.lines():
            _logger.info("layerselect: %s", line)
