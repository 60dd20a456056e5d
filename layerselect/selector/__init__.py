"""``FastSelector``, and the parts that it is made of."""

from .selector import FastSelector

__all__ = ["FastSelector"]
