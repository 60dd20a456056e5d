"""Where adapters go, as a file: chosen once, by a Layer Card or by hand, and trained by any command or loop."""

from .placement import Placement

__all__ = ["Placement"]
