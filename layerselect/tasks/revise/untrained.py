"""What the model does that nobody has trained: the texts that it writes, with and without shots, and its loss on a text
of no task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from ...data import Corpus
from ...models.load import LoadedModel
from ..run.task import OnEvent
from ..text.completions import CompletionSplit
from .config import ReviseConfig
from .examples import RevisionSplits
from .model import cover, held_as_asked, made_model
from .other_text import loss_on_other_text
from .results import UNTRAINED
from .shots import Shots

#: Writes the revisions of a split, behind shots where there are some.
Revise = Callable[[nn.Module, LoadedModel, CompletionSplit, Shots | None], list[str]]


@dataclass(frozen=True)
class Untrained:
    """What was asked of the untrained model.

    Attributes:
        written: its texts, by the row of the table and the split.
        loss: on the text of no task; not a number where there is none.
    """

    written: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    loss: float = math.nan

    def of(self, split: str) -> dict[str, list[str]]:
        """The texts of a split, by the row of the table."""
        return {name: texts[split] for name, texts in self.written.items()}


def ask_untrained(
    config: ReviseConfig,
    corpus: Corpus,
    splits: RevisionSplits,
    parts: Mapping[str, CompletionSplit],
    shots: Shots | None,
    other_text: CompletionSplit | None,
    revise: Revise,
    notify: OnEvent,
) -> Untrained:
    """Makes the model as it is before any training, and asks it for what the settings ask for.

    Args:
        splits: what the trained model reads and writes, so that both have the same embeddings.
        parts: what is revised, by the split.
        notify: is told that it begins.
    """
    if not (config.untrained or shots or other_text):
        return Untrained()
    notify("phase", {"name": "untrained model"})
    loaded = made_model(config, corpus)
    cover(loaded, splits)
    held_as_asked(loaded, config)
    rows: dict[str, Shots | None] = {UNTRAINED: None} if config.untrained else {}
    if shots:
        rows[shots.name] = shots
    written = {
        row: {name: revise(loaded.model, loaded, part, shown) for name, part in parts.items()}
        for row, shown in rows.items()
    }
    loss = math.nan
    if other_text is not None:
        loss = loss_on_other_text(loaded.model, other_text, loaded.tokenizer, config.eval_batch)
    return Untrained(written, loss)
