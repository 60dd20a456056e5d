"""Hidden states below the lowest layer that trains, computed once and kept."""

from .cut import DEFAULT_CUT, Cut
from .keys import CARRIED, BatchKeys, keys_of
from .store import TrunkStore, default_folder
from .trunk import Trunk
from .worth import worth_keeping

__all__ = [
    "CARRIED", "DEFAULT_CUT", "BatchKeys", "Cut", "Trunk", "TrunkStore", "default_folder", "keys_of", "worth_keeping",
]  # fmt: skip
