"""What a copy of a selector is."""

from __future__ import annotations

from typing import NoReturn

from ..errors import LayerSelectError


class _NotHere(LayerSelectError, AttributeError):
    """An error that ``hasattr`` and the protocols of the standard library understand, too."""


class CopiedSelector:
    """Stands in the place of a selector in a copy of what held it: a model that keeps its selector as an attribute, a
    trainer.

    A selector measures one model and gates its optimizers, and the copy of that model is free of it. So this can be
    closed, as who copied it may do, and says of all else what to do instead.
    """

    def close(self) -> None:
        """Does nothing."""

    def __enter__(self) -> CopiedSelector:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> NoReturn:
        raise _NotHere(
            f"this is the copy of a selector, which belongs to no model and has no {name!r}: build a FastSelector "
            "for the copied model, and give it selector.state_dict() of the original to go on from there"
        )

    def __repr__(self) -> str:
        return "<copy of a FastSelector, without a model>"
