"""How a trained generator of revisions is used, for its model card."""

from __future__ import annotations

from collections.abc import Sequence

from ...models.model_card import Usage
from ..text.usage import loading, loading_elsewhere, writing
from .prompts import write_prompt
from .results import SCORES

#: A text for the card; the corpus stays where it is.
EXAMPLE = "The bakers buys flour."


def usage_of(labels: Sequence[str], *, max_length: int, kind: str, base_model: str) -> Usage:
    """The generator's usage.

    Args:
        labels: the intentions that it was trained with.
        max_length: tokens of a text that are revised at a time.
        kind, base_model: see :func:`layerselect.models.saved_adapter.save_adapted`.
    """
    intentions = list(labels[:1])
    return Usage(
        title="A writer of revisions",
        does="It revises a text for one or more given intentions, or for none.",
        pipeline_tag="text-generation",
        input="A request that names the intentions, and the text to revise; the model writes the revision behind it. A "
        f"text has at most {max_length} tokens.",
        example=write_prompt(EXAMPLE, intentions),
        write="\n".join(
            [
                "from layerselect.tasks.revise.prompts import write_prompt",
                "",
                f"labels = {list(labels)!r}  # the intentions that it knows",
                f"text = write_prompt({EXAMPLE!r}, labels[:1])",
            ]
        ),
        use="\n".join(
            [
                loading(kind, writes=True),
                writing(64),
            ]
        ),
        elsewhere=loading_elsewhere(kind, base_model, writes=True),
        scores=SCORES,
        notes=[
            "`(nothing)` stands for an empty text, in what the model reads and in what it writes.",
            "`layerselect rewrite` does all of this for whole documents, piece by piece.",
        ],
    )
