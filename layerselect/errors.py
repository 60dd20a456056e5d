"""The one exception type that means "the user can fix this"."""

from __future__ import annotations


class LayerSelectError(ValueError):
    """A problem in what the caller gave us: a file, an option, a model.

    Its message is one sentence that says what is wrong, where, and what to do. The command line
    prints it as one line and exits with status 2; library callers may catch it as ``ValueError``.
    """
