"""The shard in which the hidden states of one setting of the model are kept."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .below import Below
from .fingerprint import fingerprint
from .shard import CacheShard
from .skipping import Skipping
from .stacks import CutStack
from .store import StateStore

logger = logging.getLogger(__name__)

#: Goes up when entries of earlier releases mean something else.
_VERSION = 2

#: What hidden states depend on in a call besides its tensors: how they are rounded, and the simple arguments by name.
OfCall = tuple[tuple[str, str | None, str], tuple[tuple[str, str], ...]]


class SettingShards:
    """Opens the shards of a state cache, each under a fingerprint of all that its hidden states depend on.

    Args:
        model: the model, without what an engine puts around it.
        stacks: where the cut divides them.
        store: of the shards.
        skipping: of the blocks below.
        facts: what is noted about each shard; ``cut`` and ``layers`` are among them.

    Attributes:
        bytes_per_token: what the store keeps of a token; ``None`` before the first shard is opened.
    """

    def __init__(
        self,
        model: nn.Module,
        stacks: Sequence[CutStack],
        store: StateStore,
        skipping: Skipping,
        facts: Mapping[str, Any],
    ) -> None:
        self.bytes_per_token: int | None = None
        self._model, self._stacks, self._store, self._skipping, self._facts = model, stacks, store, skipping, facts
        self._fingerprints: dict[OfCall, set[str]] = {}

    def open(self, below: Below, of_call: OfCall, states: Sequence[Tensor], *, in_use: bool) -> CacheShard:
        """The shard for the model as it is set now.

        Args:
            below: what runs before the cut.
            of_call: what the states depend on in the call.
            states: hidden states at the cut, for each stack with layers below it.
            in_use: whether other shards of this model are still read.
        """
        config = getattr(self._model, "config", None)
        facts = {
            "version": _VERSION,
            "below": [len(stack.below) for stack in self._stacks],
            "numerics": self._skipping.numerics,
            "call": of_call[1],
            "attention": [getattr(c, "_attn_implementation", None) for c in below.configs[:1]],
            "releases": [getattr(sys.modules.get(name), "__version__", None) for name in ("torch", "transformers")],
        }
        if len(self._stacks) > 1:  # an encoder-decoder pads its decoder's inputs itself
            facts["padding"] = getattr(config, "pad_token_id", None)
        found = fingerprint(below, facts)
        before = self._fingerprints.setdefault(of_call, set())
        if before and found not in before and not in_use:
            logger.warning("weights below the cut have changed: what was kept of them is not used any more")
        before.add(found)
        half = self._store.precision == "half"
        self.bytes_per_token = sum(s[0, 0].numel() * (2 if half else s.element_size()) for s in states)
        logger.info(
            "hidden states below layer %d of %d are kept as %s, %d bytes a token, and computed in evaluation mode%s",
            self._facts["cut"],
            self._facts["layers"],
            found[:12],
            self.bytes_per_token,
            self._dropout(),
        )
        dtype = str(states[0].dtype).removeprefix("torch.")
        name = getattr(config, "_name_or_path", "") or type(self._model).__name__
        return self._store.shard(found, {"model": name, **self._facts, "dtype": dtype})

    def _dropout(self) -> str:
        modules = (module for stack in self._stacks for block in stack.below for module in block.modules())
        drops = any(isinstance(module, nn.Dropout) and module.p > 0 for module in modules)
        return " (without the dropout of these layers)" if drops else ""
