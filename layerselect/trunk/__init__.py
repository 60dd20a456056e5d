"""Hidden states below the lowest layer that trains, computed once and kept."""

from .keys import CARRIED, BatchKeys, keys_of
from .store import TrunkStore, default_folder
from .trunk import Trunk

__all__ = ["CARRIED", "BatchKeys", "Trunk", "TrunkStore", "default_folder", "keys_of"]
