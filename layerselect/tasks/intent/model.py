"""The base model of a predictor, what it is to write if it writes, and how it reads."""

from __future__ import annotations

import logging

from transformers import set_seed

from ...data import Corpus
from ...errors import LayerSelectError
from ...models.demo import SOURCE as DEMO
from ...models.demo import build_demo_causal_lm, build_demo_classifier
from ...models.load import LoadedModel, load_causal_lm, load_classifier
from ...models.positions import usable_positions
from ...models.vocabulary import cover_tokens
from ..text.rows import TRAIN
from ..text.verbalizer import Verbalizer, label_sets
from .config import IntentConfig
from .dataset import Encoder, Splits, make_targets

logger = logging.getLogger(__name__)


def prepare(config: IntentConfig, corpus: Corpus) -> tuple[LoadedModel, Verbalizer | None, Encoder]:
    """The base model, what it is to write if it writes, and how it reads; whatever is random afterwards starts from the
    run's seed. The demo's model is as it was made: :func:`~layerselect.models.load.hold` holds it as the run asks.
    """
    set_seed(config.seed)
    loaded = _model(config, corpus)
    words = _words(corpus, loaded)
    encoder = Encoder(
        loaded.tokenizer,
        config.input_format(),
        corpus.labels,
        _max_length(config, loaded, words),
        loaded.separator,
        loaded.writes,
    )
    return loaded, words, encoder


def cover(loaded: LoadedModel, words: Verbalizer | None, splits: Splits) -> None:
    """Sees to it that every token that will be read has an embedding; see
    :func:`layerselect.models.vocabulary.cover_tokens`.
    """
    written = words.tokens if words else []
    cover_tokens(loaded.model, loaded.tokenizer, [*splits.token_lists(), *written], loaded.source)


def _model(config: IntentConfig, corpus: Corpus) -> LoadedModel:
    writes = config.head == "generate"
    if config.model != DEMO:
        if writes:
            return load_causal_lm(config.model, dropout=config.dropout, holding=config.holding())
        return load_classifier(
            config.model,
            corpus.labels,
            multi_label=corpus.multi_label,
            dropout=config.dropout,
            holding=config.holding(),
        )
    form = config.input_format()
    rows = corpus.splits.get(TRAIN, [])
    if writes:
        texts = [form.prompt(row, corpus.labels) for row in rows]
        return build_demo_causal_lm(texts, corpus.labels, max_length=config.max_length, dropout=config.dropout or 0.0)
    texts = [part for row in rows for part in form.write(row, corpus.labels) if part]
    return build_demo_classifier(
        texts,
        corpus.labels,
        multi_label=corpus.multi_label,
        max_length=config.max_length,
        dropout=config.dropout or 0.0,
    )


def _words(corpus: Corpus, loaded: LoadedModel) -> Verbalizer | None:
    """What the model is to write, if it is to write."""
    if not loaded.writes:
        return None
    targets = make_targets(list(corpus.splits.get(TRAIN, [])), corpus.labels, corpus.multi_label)
    return Verbalizer(loaded.tokenizer, corpus.labels, label_sets(targets, len(corpus.labels)))


def _max_length(config: IntentConfig, loaded: LoadedModel, words: Verbalizer | None) -> int:
    """The option, or less where the model has fewer positions (of which the label's words take some)."""
    positions = usable_positions(loaded.model)
    if positions is not None and words is not None:
        positions -= words.longest
        if positions < 1:
            raise LayerSelectError(
                f"{loaded.source} reads at most {positions + words.longest} tokens, which the label's words take up: "
                "use --head classifier"
            )
    if positions is not None and positions < config.max_length:
        logger.warning(
            "%s reads at most %d tokens: --max-length %d is lowered", loaded.source, positions, config.max_length
        )
        return positions
    return config.max_length
