"""From a corpus to what the generator learns from: prompts, completions, and the texts that they hold."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...data import Corpus
from ...errors import LayerSelectError
from ...models.reading import read_tokens
from ..text.completions import CompletionSplit, completion_tokens, prompt_tokens
from ..text.rows import TRAIN, split_rows, watched_split
from .cutting import cut_pair
from .edit_weights import edit_weights
from .prompts import tidy, write_completion, write_prompt

logger = logging.getLogger(__name__)


@dataclass
class RevisionSplits:
    """The splits by role. Each row has ``id, doc_id, intentions, source, references`` (the texts as they were used) and
    ``cut``.

    Attributes:
        train: what the model is trained on.
        watch: what is evaluated while training and chooses the checkpoint; ``None`` where there is no such split.
        report: every split that is revised and scored at the end, ``watch`` among them.
        sentences: for each split, how many sentences its texts have and how many were kept.
    """

    train: CompletionSplit
    watch: CompletionSplit | None
    report: list[CompletionSplit]
    sentences: Mapping[str, tuple[int, int]]

    def facts(self, split: CompletionSplit) -> dict[str, Any]:
        """What a split holds, in numbers."""
        sentences, kept = self.sentences[split.name]
        return {
            "examples": len(split),
            "documents": len({row["doc_id"] for row in split.rows}),
            "cut": sum(row["cut"] for row in split.rows),
            "sentences": sentences,
            "kept_sentences": kept,
            "intentions": dict(Counter(label for row in split.rows for label in row["intentions"])),
        }


def build_revision_splits(
    corpus: Corpus, tokenizer: Any, *, max_length: int, holdout: float = 0.0, seed: int = 0, edit_weight: float = 1.0
) -> RevisionSplits:
    """Encodes a corpus.

    Args:
        max_length: tokens of a text before and of a text after its revision. Of a longer one the sentences in a row are
            kept that fit and hold most of the changes (:func:`~layerselect.tasks.revise.cutting.cut_pair`); a warning
            counts them.
        holdout, seed: see :func:`~layerselect.tasks.text.rows.split_rows`.
        edit_weight: how much a token of an edit counts in the training split, where a copied one counts 1.

    Raises:
        LayerSelectError: an empty or missing training split.
    """
    rows = split_rows(corpus, holdout=holdout, seed=seed)
    encoded, sentences = {}, {}
    for name, split in rows.items():
        encoded[name], sentences[name] = _encode(name, split, tokenizer, max_length)
    cut = sum(row["cut"] for split in encoded.values() for row in split.rows)
    if cut:
        kept, whole = (sum(counts[i] for counts in sentences.values()) for i in (1, 0))
        logger.warning(
            "%d of %d revisions are longer than %d tokens and were cut to the sentences with most changes (%d of %d "
            "sentences kept): raise --max-length",
            cut,
            sum(map(len, encoded.values())),
            max_length,
            kept,
            whole,
        )
    train = encoded.pop(TRAIN)
    if edit_weight != 1:
        train.weights = [
            edit_weights(_completion(tokenizer, row, row["source"]), revision, edit_weight)
            for row, revision in zip(train.rows, train.completions, strict=True)
        ]
    return RevisionSplits(train, encoded.get(watched_split(encoded) or ""), list(encoded.values()), sentences)


def _encode(
    name: str, rows: Sequence[Mapping[str, Any]], tokenizer: Any, max_length: int
) -> tuple[CompletionSplit, tuple[int, int]]:
    """The split, and how many sentences its texts have and how many were kept."""
    length = token_counter(tokenizer)
    used: list[dict[str, Any]] = []
    prompts, completions = [], []
    sentences = kept = 0
    for row in rows:
        pair = cut_pair(
            tidy(row["before"]), tidy(row["after"]), lambda *texts: all(length(text) <= max_length for text in texts)
        )
        sentences, kept = sentences + pair.sentences, kept + pair.kept_sentences
        used.append(
            {
                "id": row["id"],
                "doc_id": row["doc_id"],
                "intentions": list(row["intentions"]),
                "source": pair.before,
                "references": [pair.after],
                "cut": pair.cut,
            }
        )
        prompts.append(prompt_tokens(tokenizer, write_prompt(pair.before, row["intentions"])))
        completions.append(_completion(tokenizer, used[-1], pair.after))
    return CompletionSplit(name, used, prompts, completions), (sentences, kept)


def _completion(tokenizer: Any, row: Mapping[str, Any], after: str) -> list[int]:
    """The tokens of ``after`` as they are written behind the row's prompt."""
    return completion_tokens(tokenizer, write_prompt(row["source"], row["intentions"]), write_completion(after))


def token_counter(tokenizer: Any) -> Callable[[str], int]:
    """Counts a text's tokens."""
    return lambda text: len(read_tokens(tokenizer, text, add_special_tokens=False, verbose=False)["input_ids"])


def token_budget(source_tokens: int) -> int:
    """The most new tokens for a source of so many."""
    return source_tokens + source_tokens // 2 + 16


def check_room(splits: RevisionSplits, positions: int | None, source: str, max_length: int) -> None:
    """Refuses examples that the model has no positions for.

    Raises:
        LayerSelectError: the longest one has more tokens than the model reads.
    """
    longest = max(length for split in (splits.train, *splits.report) for length in split.lengths)
    if positions is not None and longest > positions:
        raise LayerSelectError(
            f"{source} reads at most {positions} tokens, and with --max-length {max_length} an example has {longest} "
            f"(text, revision and instruction): lower --max-length to {max(8, (positions - 64) // 2)} or less"
        )
