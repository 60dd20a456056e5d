"""What fine-tuning forgets: the loss of the language model on a text of no task, before the training and after it.

The text is the user's: any that is not of the corpus and no example of the task. It is cut into windows, and the loss
is the mean over their tokens of minus the log-probability of each, given those before it in its window. No absolute
number is meant by it: only the same tokens before and after are compared.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from ...data import Corpus
from ...data.file_bytes import shown
from ...data.plain_text import read_plain_text
from ...errors import LayerSelectError
from ...models.load import LoadedModel
from ...models.positions import usable_positions
from ...models.reading import read_tokens
from ...models.vocabulary import embedding_rows, highest_token
from ...utils.user_paths import user_path
from ..text.completions import CompletionCollator, CompletionSplit, prompt_tokens
from .config import MOST_OTHER_TOKENS, ReviseConfig
from .prompts import tidy
from .transfer import mean_loss

logger = logging.getLogger(__name__)

#: So many characters of a file hold the tokens that are read, in any script.
_MOST_CHARACTERS = 40 * MOST_OTHER_TOKENS
#: Over fewer tokens a mean loss says little.
_FEW = 500


def read_other_text(config: ReviseConfig, corpus: Corpus, loaded: LoadedModel) -> CompletionSplit | None:
    """The windows of the text that ``--forgetting`` names, of ``--max-length`` tokens each, if it names any.

    A window is what is to be written behind the tokens that the model's tokenizer puts in front of a text; behind its
    own first token, where there are none. A warning says how many paragraphs stand in the corpus.

    Raises:
        LayerSelectError: the file cannot be read, holds too little text, or a word that the model has no embedding for.
    """
    if config.forgetting is None:
        return None
    path = user_path(config.forgetting, "--forgetting", "holds a text that is not of the corpus")
    try:
        text = read_plain_text(path)[:_MOST_CHARACTERS]
    except LayerSelectError as error:
        raise LayerSelectError(f"--forgetting: {error}") from error
    name = f"--forgetting {shown(path)}"
    _warn_of_the_corpus(text, corpus, name)
    tokens = read_tokens(loaded.tokenizer, text, add_special_tokens=False, verbose=False)["input_ids"]
    tokens = tokens[:MOST_OTHER_TOKENS]
    rows = embedding_rows(loaded.model)
    if rows is not None and (highest := highest_token([tokens])) >= rows:
        word = loaded.tokenizer.convert_ids_to_tokens(highest)
        raise LayerSelectError(
            f"{name}: the text holds {word!r}, for which {loaded.source} has no embedding: take a text without it"
        )
    start = prompt_tokens(loaded.tokenizer, "")
    length = min(config.max_length, (usable_positions(loaded.model) or config.max_length) - len(start))
    windows = [tokens[place : place + length] for place in range(0, len(tokens), length)]
    parts = [(start, window) if start else (window[:1], window[1:]) for window in windows]
    parts = [(prompt, rest) for prompt, rest in parts if rest]
    count = sum(len(rest) for _, rest in parts)
    if not count:
        raise LayerSelectError(f"{name}: the text has {len(tokens)} tokens: give at least a paragraph")
    if count < _FEW:
        logger.warning(
            "%s: the loss is a mean over %d tokens, which say little: some %d or more are better",
            name,
            count,
            _FEW,
        )
    return CompletionSplit("other text", [{}] * len(parts), [one for one, _ in parts], [rest for _, rest in parts])


def loss_on_other_text(model: nn.Module, windows: CompletionSplit, tokenizer: Any, batch_size: int) -> float:
    """The mean loss of a token, in evaluation mode."""
    return mean_loss(model, windows, CompletionCollator(tokenizer.pad_token_id), batch_size)


def forgetting_facts(windows: CompletionSplit | None, before: float, after: float) -> dict[str, Any]:
    """What stands among the facts of the training, ``None`` for what is no finite number; nothing where there is no
    text.
    """
    if windows is None:
        return {}
    known = [value if math.isfinite(value) else None for value in (before, after, after - before)]
    return {
        "other_text_tokens": sum(map(len, windows.completions)),
        **dict(zip(("other_text_loss_before", "other_text_loss", "forgotten"), known, strict=True)),
    }


def _warn_of_the_corpus(text: str, corpus: Corpus, name: str) -> None:
    known = {tidy(row[side]) for split in corpus.splits.values() for row in split for side in ("before", "after")}
    paragraphs: Sequence[str] = [line for line in map(tidy, text.splitlines()) if line]
    found = sum(line in known for line in paragraphs)
    if found:
        logger.warning(
            "%s: %d of its %d paragraphs stand in the corpus, so the loss on them is no measure of what "
            "is forgotten: take a text that is not of the corpus",
            name,
            found,
            len(paragraphs),
        )
