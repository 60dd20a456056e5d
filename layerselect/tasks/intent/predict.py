"""Labels new revisions with a trained adapter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...errors import LayerSelectError
from ...models.adapter_files import META, find_adapter
from ...models.load import LoadedModel, load_causal_lm, load_classifier
from ...models.running import placed
from ...models.saved_adapter import holding_for, load_adapted, read_meta, save_adapted
from ...models.tokenizers import pad_on, saved_tokenizer
from ...models.traits import reason
from ...models.vocabulary import embedding_rows
from ...utils.saved_schema import Fields, Flag, Items, Maybe, Text, Whole
from ..run.by_length import longest_first
from ..run.cache_keys import OFFSET
from ..text.formats import InputFormat
from ..text.verbalizer import Answer, Verbalizer
from .dataset import Collator, Encoder
from .heads import ClassifierHead, Head, LabelWordHead
from .outputs import chosen_labels, score_table
from .training import probabilities
from .word_scores import WordScores


@dataclass(frozen=True)
class Prediction:
    """One labelled revision.

    Attributes:
        labels: exactly one unless the corpus has several; none where there is an error.
        scores: of each label; none where there is an error. With several labels those of at least 0.5 are answered.
        error: why the revision could not be labelled.
    """

    id: str
    labels: list[str]
    scores: dict[str, float]
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """A line of a file of predictions; ``error`` is in it where there is one."""
        known = {"id": self.id, "labels": self.labels, "scores": self.scores}
        return known if self.error is None else {**known, "error": self.error}


def save_adapter(
    folder: Path,
    model: nn.Module,
    encoder: Encoder,
    *,
    base_model: str,
    kind: str,
    multi_label: bool,
    fingerprint: str = "",
    answers: Sequence[Answer] | None = None,
    word_scores: WordScores | None = None,
) -> None:
    """Writes what prediction needs: weights (safetensors), tokenizer, labels, input format, base model.

    Args:
        base_model, kind, fingerprint: see :func:`~layerselect.models.saved_adapter.save_adapted`.
        answers: the label sets that a model that writes is asked about; ``None`` where it has a classification head.
        word_scores: the regression on the text that the answers need; ``None``: they need none.
    """
    save_adapted(
        folder,
        model,
        encoder.tokenizer,
        task="intent",
        base_model=base_model,
        kind=kind,
        fingerprint=fingerprint,
        more={
            "labels": list(encoder.labels),
            "multi_label": multi_label,
            "head": "classifier" if answers is None else "generate",
            "answers": answers,
            "format": asdict(encoder.form),
            "max_length": encoder.max_length,
            "separator": encoder.separator,
            "word_scores": word_scores is not None,
        },
    )
    if word_scores is not None:
        word_scores.save(folder)


#: So many batches are read before the first of them is labelled.
_SORTED = 32
#: Of a text that a model reads; nothing is allocated by it.
_MOST_WORDS = _MOST_TOKENS = 2**31 - 1
_FORMAT = Fields(
    optional={
        "name": Text(),
        "window": Whole(high=_MOST_WORDS),
        "gap": Whole(high=_MOST_WORDS),
        "cap": Whole(2, _MOST_WORDS),
        "summary": Flag(),
    },
    closed=True,
)
_META = Fields(
    {
        "labels": Items(Text(), least=1, unique=True),
        "multi_label": Flag(),
        "format": _FORMAT,
        "max_length": Whole(1, _MOST_TOKENS),
        "separator": Maybe(Text()),
    },
    optional={
        "head": Text(of=("classifier", "generate")),
        "answers": Maybe(Items(Items(Whole()), least=1)),
        "word_scores": Flag(),
    },
)


class Predictor:
    """A trained model, ready to label revisions.

    ::

    predictor = Predictor.load("runs/first")
    for prediction in predictor.predict([{"id": "1", "before": "He go.", "after": "He goes."}]):
        print(prediction.labels)
    """

    def __init__(
        self,
        model: nn.Module,
        encoder: Encoder,
        *,
        multi_label: bool,
        head: Head | None = None,
        word_scores: WordScores | None = None,
        device: str = "cpu",
    ) -> None:
        self.model = placed(model, device).eval()
        self.encoder, self.multi_label, self.device = encoder, multi_label, device
        self.head, self.word_scores = head or ClassifierHead(multi_label=multi_label), word_scores

    @property
    def labels(self) -> list[str]:
        """The class names, in class order."""
        return list(self.encoder.labels)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        model: str | Path | None = None,
        device: str = "cpu",
        dtype: str | None = None,
        quantize: str | None = None,
    ) -> Predictor:
        """Loads the adapter of a run.

        Args:
            folder: the folder of a run, or its ``adapter`` folder.
            model: where the base model lies now, if it has moved.
            dtype, quantize: how the base model is held, see :class:`~layerselect.models.holding.Holding`; ``None``: as
                it was trained.

        Raises:
            LayerSelectError: no adapter there, its base model is missing or is another model, or a damaged file.
        """
        path = find_adapter(folder)
        meta = read_meta(path, "intent", _META, command="layerselect intent")
        labels, multi_label = meta["labels"], meta["multi_label"]
        if any(number >= len(labels) for answer in meta.get("answers") or () for number in answer):
            raise LayerSelectError(
                f"{str(path / META)!r} is damaged (answers names a class that labels lacks): train again"
            )
        writes = meta.get("head") == "generate"
        holding = holding_for(path, meta, device=device, dtype=dtype, quantize=quantize)

        def load(source: str | Path) -> LoadedModel:
            if writes:
                return load_causal_lm(source, holding=holding)
            return load_classifier(source, labels, multi_label=multi_label, holding=holding)

        network = load_adapted(path, meta, load, model=model)
        form = InputFormat(**meta["format"])
        tokenizer = saved_tokenizer(path)
        pad_on(tokenizer, writes=writes)
        encoder = Encoder(tokenizer, form, labels, meta["max_length"], meta["separator"], writes)
        head = LabelWordHead(Verbalizer(tokenizer, labels, meta["answers"])) if writes else None
        word_scores = None
        if meta.get("word_scores", False):
            word_scores = WordScores.load(path, len(labels), multi_label=multi_label)
        return cls(network, encoder, multi_label=multi_label, head=head, word_scores=word_scores, device=device)

    def predict(self, rows: Sequence[Mapping[str, Any]], *, batch_size: int = 32) -> Iterator[Prediction]:
        """Labels revisions, in their order; each row has ``id``, ``before``, ``after`` (and contexts, if the format
        reads them).

        A row that cannot be read or labelled gives a prediction with an ``error`` and takes no other with it.

        Args:
            batch_size: how many are read at a time. Of the next batches, rows of similar lengths go together.
        """
        window = _SORTED * batch_size
        for start in range(0, len(rows), window):
            yield from self._window(rows[start : start + window], batch_size)

    def _window(self, rows: Sequence[Mapping[str, Any]], batch_size: int) -> Iterator[Prediction]:
        read = [self._read(row) for row in rows]
        good: list[dict[str, Any]] = [item for item in read if not isinstance(item, str)]
        if self.word_scores is not None:
            texts = [row for row, item in zip(rows, read, strict=True) if not isinstance(item, str)]
            good = [{**item, OFFSET: each} for item, each in zip(good, self.word_scores(texts), strict=True)]
        order = longest_first([len(item["input_ids"]) for item in good])
        found: list[np.ndarray | str] = [""] * len(good)
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            for number, score in zip(chosen, self._scored_apart([good[i] for i in chosen]), strict=True):
                found[number] = score
        scores = iter(found)
        for row, item in zip(rows, read, strict=True):
            score = item if isinstance(item, str) else next(scores)
            name = str(row.get("id"))
            if isinstance(score, str):
                yield Prediction(name, [], {}, score)
            else:
                labels = chosen_labels(score, self.labels, multi_label=self.multi_label)
                yield Prediction(name, labels, score_table(score, self.labels))

    def _read(self, row: Mapping[str, Any]) -> dict[str, list[int]] | str:
        """The input of a row, or why there is none."""
        try:
            item = self.encoder.encode(row)
        except LayerSelectError as error:
            return str(error)
        rows, highest = embedding_rows(self.model), max(item["input_ids"])
        if rows is not None and highest >= rows:
            word = self.encoder.tokenizer.convert_ids_to_tokens(highest)
            return f"row {row.get('id')!r} holds {word!r}, for which the model has no embedding"
        return item

    def _scored_apart(self, items: Sequence[dict[str, Any]]) -> list[np.ndarray | str]:
        """The scores of each input; where the batch fails, one by one, so that the bad ones are told from the
        others.
        """
        if not items:
            return []
        try:
            return list(self._scores_of(items))
        except Exception as error:  # what other people's models raise
            if len(items) == 1:
                return [f"the model cannot read it ({reason(error)})"]
            return [score for item in items for score in self._scored_apart([item])]

    def _scores_of(self, items: Sequence[dict[str, Any]]) -> np.ndarray:
        batch = Collator(self.encoder.tokenizer)(items)
        own = batch.pop(OFFSET, None)
        with torch.no_grad():
            found = self.head.logits(self.model, {key: value.to(self.device) for key, value in batch.items()})
        logits = found.cpu().numpy()
        if self.word_scores is not None and own is not None:
            logits = self.word_scores.joined(logits, own.numpy())
        scores = probabilities(logits, multi_label=self.multi_label)
        if not np.isfinite(scores).all():
            raise LayerSelectError("the model's scores are not numbers")
        return scores
