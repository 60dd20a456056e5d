"""How to tell that memory has run out: each library has its own words for it."""

from __future__ import annotations

import errno
from collections.abc import Iterator

GPU, HOST = "the GPU", "this machine"

#: What libraries say, in a ``RuntimeError`` or an error of the operating system.
_TEXTS = (
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "not enough memory",
    "unable to allocate",
    "bad allocation",
    "bad_alloc",
    "_alloc_failed",
    "out of shared memory",
    "insufficient shared memory",
    "is killed by signal: killed",  # a worker that makes batches, by the operating system
)
_OF_GPUS = ("cuda", "cublas", "cudnn", "cusparse", "hip", "mps backend", "xpu")


def ran_out(error: BaseException) -> str | None:
    """Where memory has run out, :data:`GPU` or :data:`HOST`, if this error or one that it was made of says so; else
    ``None``.
    """
    return next((place for each in _chain(error) if (place := _place(each)) is not None), None)


def unless_memory(error: Exception) -> None:
    """Raises the error again if it says that memory has run out, for handlers that take a failure for an answer."""
    if ran_out(error) is not None:
        raise error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it was made of: libraries make other errors of the ones that they are told."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def _place(error: BaseException) -> str | None:
    if isinstance(error, MemoryError):
        return HOST
    if getattr(error, "errno", None) == errno.ENOMEM:
        return HOST
    # Only there by its name: whoever asks may not have loaded torch.
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return GPU
    if not (isinstance(error, (RuntimeError, OSError)) or type(error).__name__ == "SafetensorError"):
        return None
    text = str(error).lower()
    if not any(words in text for words in _TEXTS):
        return None
    # The first words say whose it is: behind them may stand a trace, and what else there is.
    return GPU if any(word in text[:200] for word in _OF_GPUS) else HOST
