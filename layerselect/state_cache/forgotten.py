"""What a pass whose lower layers were skipped remembers for the next token: nothing."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NoReturn

from ..errors import LayerSelectError

#: How models call what is remembered for the next token.
REMEMBERED = ("past_key_values", "cache", "cache_params", "mems")


class Forgotten:
    """Stands where a model's output would hold the keys and values of all layers. Whoever uses it is told what to
    do.
    """

    def refuse(self) -> NoReturn:
        """Says what to do instead of using this.

        Raises:
            LayerSelectError: always.
        """
        raise LayerSelectError(
            "a pass that was given cached hidden states remembers no keys and values for the next token: pass "
            "use_cache=True to the first pass, or generate with model.generate()"
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by copy and pickle
            raise AttributeError(name)
        self.refuse()

    def __getitem__(self, item: Any) -> Any:
        self.refuse()

    def __iter__(self) -> Any:
        self.refuse()

    def __len__(self) -> int:
        self.refuse()


def without_memory(output: Any) -> Any:
    """The output of a model, of which nothing is remembered: without the skipped layers it would not be whole."""
    if type(output) is tuple:
        return tuple(Forgotten() if _is_memory(item) else item for item in output)
    for name in REMEMBERED:
        # A ModelOutput does not let its items be deleted.
        if isinstance(output, OrderedDict) and name in OrderedDict.keys(output):
            OrderedDict.__delitem__(output, name)
            # An attribute alone: it is not among the items.
            object.__setattr__(output, name, Forgotten())
    return output


def _is_memory(item: Any) -> bool:
    return hasattr(item, "get_seq_length")
