"""Hidden states below the lowest layer that trains, computed once and kept."""

from .cache import StateCache
from .cut import DEFAULT_CUT, Cut
from .keys import CARRIED, BatchKeys, keys_of
from .store import StateStore, default_folder
from .worth_caching import worth_caching

__all__ = [
    "CARRIED",
    "DEFAULT_CUT",
    "BatchKeys",
    "Cut",
    "StateCache",
    "StateStore",
    "default_folder",
    "keys_of",
    "worth_caching",
]
