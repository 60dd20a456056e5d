"""The version of this package: the one place where it is written (CITATION.cff repeats it, and a test compares)."""

__version__ = "0.2.0"
