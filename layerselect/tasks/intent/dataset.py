"""From a corpus to what the Trainer reads: token ids, targets, splits by role."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ...data import Corpus
from ...errors import LayerSelectError
from ...models.reading import blank_token, read_tokens
from ..run.cache_keys import OFFSET
from ..run.word_features import Described, describe
from ..text.formats import InputFormat
from ..text.rows import TRAIN, split_rows, watched_split
from ..text.verbalizer import Verbalizer, as_answer, pad_answers

logger = logging.getLogger(__name__)


@dataclass
class Encoder:
    """Writes revisions in a format and turns them into token ids; prediction uses the one that training used.

    Attributes:
        separator: put between the parts of a pair where the tokenizer separates nothing (``None``: it does).
        labels: the class names, which the instructions name.
        writes: the model is to write the label, so the input is a prompt. A long one loses its middle, since it
            begins with what is asked and ends with where the answer stands.
        truncated: how many of the encoded revisions were longer than ``max_length`` tokens.
    """

    tokenizer: Any
    form: InputFormat
    labels: Sequence[str]
    max_length: int
    separator: str | None = None
    writes: bool = False
    truncated: int = 0

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, list[int]]]:
        """Model inputs for each row, not padded.

        Raises:
            LayerSelectError: a row cannot be read; the message names it.
        """
        return [self.encode(row) for row in rows]

    def encode(self, row: Mapping[str, Any]) -> dict[str, list[int]]:
        """The model input for one row; raises as :meth:`__call__`."""
        for name in ("before", "after"):
            if not isinstance(row.get(name), str):
                raise LayerSelectError(
                    f"row {row.get('id')!r} has no text as its {name!r}: give one, or leave the row out"
                )
        try:
            return self._prompt(row) if self.writes else self._input(row)
        except LayerSelectError as error:
            raise LayerSelectError(f"row {row.get('id')!r}: {error}") from error

    def _input(self, row: Mapping[str, Any]) -> dict[str, list[int]]:
        text, second = self.form.write(row, self.labels)
        if second is not None and self.separator is not None:
            text, second = text + self.separator + second, None
        encoded = read_tokens(self.tokenizer, text, second, truncation=True, max_length=self.max_length)
        if not encoded["input_ids"]:
            return self._blank()
        if len(encoded["input_ids"]) >= self.max_length:
            # Exactly as long as allowed: tokenize again to know whether anything was cut.
            self.truncated += (
                len(read_tokens(self.tokenizer, text, second, verbose=False)["input_ids"]) > self.max_length
            )
        return dict(encoded)

    def _blank(self) -> dict[str, list[int]]:
        """The input for an empty text."""
        number = blank_token(self.tokenizer)
        if number is None:
            raise LayerSelectError(
                "its text has no tokens, and the tokenizer no token that could stand for that: leave it out"
            )
        return {"input_ids": [number], "attention_mask": [1]}

    def _prompt(self, row: Mapping[str, Any]) -> dict[str, list[int]]:
        text = self.form.prompt(row, self.labels, self.separator or " ")
        ids = read_tokens(self.tokenizer, text, verbose=False)["input_ids"]
        if ids[-1] == self.tokenizer.eos_token_id:
            ids = ids[:-1]  # some tokenizers close every text, but the label is to follow this one
        if (surplus := len(ids) - self.max_length) > 0:
            self.truncated += 1
            kept = self.max_length // 2
            ids = ids[:kept] + ids[kept + surplus :]
        return {"input_ids": ids, "attention_mask": [1] * len(ids)}


@dataclass
class EncodedSplit(Dataset):
    """One split.

    Attributes:
        rows: the corpus rows, in corpus order.
        targets: class numbers int64 ``[n]`` or, with several labels, float32 0/1 ``[n, C]``.
        offsets: what is added to the logits, float32 ``[n, C]``; ``None``: nothing is.
    """

    name: str
    rows: list[Mapping[str, Any]]
    features: list[dict[str, list[int]]]
    targets: np.ndarray
    offsets: np.ndarray | None = None
    lengths: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.lengths = [len(feature["input_ids"]) for feature in self.features]

    @functools.cached_property
    def described(self) -> Described:
        """The revisions as regressions on their words read them."""
        return describe(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        more = {} if self.offsets is None else {OFFSET: self.offsets[index]}
        return {**self.features[index], **more, "labels": self.targets[index]}

    def subset(self, indices: Sequence[int], name: str | None = None) -> EncodedSplit:
        """The examples at ``indices``, in that order."""
        return EncodedSplit(
            name or self.name,
            [self.rows[i] for i in indices],
            [self.features[i] for i in indices],
            self.targets[list(indices)],
            None if self.offsets is None else self.offsets[list(indices)],
        )


@dataclass
class Splits:
    """The splits by role.

    Attributes:
        train: what the model is trained on.
        select: what chooses the checkpoint; ``None`` where nothing does.
        report: every split that a result is reported for, ``select`` among them.
        importance: training examples that are held out for the rule's ablations; ``None`` where it makes none.
    """

    train: EncodedSplit
    select: EncodedSplit | None
    report: list[EncodedSplit]
    importance: EncodedSplit | None = None

    def token_lists(self) -> Iterator[list[int]]:
        """The tokens of every input."""
        for split in (self.train, self.importance, *self.report):
            if split is not None:
                yield from (feature["input_ids"] for feature in split.features)


def build_splits(corpus: Corpus, encoder: Encoder, *, holdout: float = 0.0, seed: int = 0) -> Splits:
    """Encodes a corpus.

    Args:
        holdout: the fraction of the training split to hold out, in whole documents, for choosing the checkpoint.

    Raises:
        LayerSelectError: an empty or missing training split, fewer than two labels, or too few documents to hold
            some out.
    """
    if len(corpus.labels) < 2:
        raise LayerSelectError(
            f"the corpus {corpus.name!r} has only the label {', '.join(corpus.labels)!r}: there is nothing to tell "
            "apart"
        )
    rows = split_rows(corpus, holdout=holdout, seed=seed)
    if encoder.form.name == "contextual" and not _has_context(rows):
        logger.warning("no row of %s has the text around it: --format contextual reads the same as plain", corpus.name)
    encoded = {name: encode_split(name, split, encoder, corpus) for name, split in rows.items()}
    if encoder.truncated:
        logger.warning(
            "%s of %s inputs are longer than %d tokens and were cut: raise --max-length",
            f"{encoder.truncated:,}",
            f"{sum(map(len, encoded.values())):,}",
            encoder.max_length,
        )
    train = encoded.pop(TRAIN)
    missing = [label for label, n in zip(corpus.labels, label_counts(train, len(corpus.labels)), strict=True) if not n]
    if missing:
        logger.warning("the training split has no example of: %s", ", ".join(missing))
    return Splits(train, encoded.get(watched_split(encoded) or ""), list(encoded.values()))


def _has_context(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> bool:
    return any(row.get("before_context") or row.get("after_context") for split in rows.values() for row in split)


def encode_split(name: str, rows: Sequence[Mapping[str, Any]], encoder: Encoder, corpus: Corpus) -> EncodedSplit:
    """Encodes the rows of one split with their targets."""
    return EncodedSplit(name, list(rows), encoder(rows), make_targets(rows, corpus.labels, corpus.multi_label))


def make_targets(rows: Sequence[Mapping[str, Any]], labels: Sequence[str], multi_label: bool) -> np.ndarray:
    """Class numbers int64 ``[n]`` or, with several labels, float32 0/1 ``[n, C]``.

    Raises:
        LayerSelectError: a row carries a label that is not in ``labels``.
    """
    numbers = {label: i for i, label in enumerate(labels)}
    targets = np.zeros((len(rows), len(labels)), dtype=np.float32)
    for i, row in enumerate(rows):
        for label in row["intentions"]:
            if label not in numbers:
                raise LayerSelectError(f"row {row['id']!r} has the unknown label {label!r}; known: {', '.join(labels)}")
            targets[i, numbers[label]] = 1.0
    return targets if multi_label else targets.argmax(axis=1).astype(np.int64)


def label_counts(split: EncodedSplit, num_labels: int) -> np.ndarray:
    """How many examples of each label the split has, int64 ``[C]``."""
    if split.targets.ndim == 2:
        return split.targets.sum(axis=0).astype(np.int64)
    return np.bincount(split.targets, minlength=num_labels)


class Collator:
    """Pads a batch to its longest input.

    Args:
        words: what the model is to write: a batch with labels then holds the words of each (``answer_ids`` and
            ``answer_mask``), looked up here, where the labels are still on the host.
    """

    def __init__(self, tokenizer: Any, words: Verbalizer | None = None) -> None:
        self._tokenizer, self._words = tokenizer, words

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        inputs = [{k: v for k, v in item.items() if k not in ("labels", OFFSET)} for item in items]
        batch = dict(self._tokenizer.pad(inputs, return_tensors="pt"))
        if OFFSET in items[0]:
            batch[OFFSET] = torch.as_tensor(np.stack([item[OFFSET] for item in items]))
        if "labels" in items[0]:
            batch["labels"] = torch.as_tensor(np.stack([item["labels"] for item in items]))
            if self._words is not None:
                answers = [self._words.tokens_of(as_answer(item["labels"])) for item in items]
                batch["answer_ids"], batch["answer_mask"] = pad_answers(answers)
        return batch
