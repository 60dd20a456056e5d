"""The base model of a generator, and the corpus as it reads it."""

from __future__ import annotations

from pathlib import Path

from transformers import set_seed

from ...data import Corpus
from ...models.demo import SOURCE as DEMO
from ...models.demo import build_demo_causal_lm, hold
from ...models.load import LoadedModel, load_causal_lm
from ...models.positions import usable_positions
from ...models.vocabulary import cover_tokens
from ..text.rows import TRAIN
from .config import ReviseConfig
from .examples import RevisionSplits, build_revision_splits, check_room
from .prompts import write_completion, write_prompt


def prepare(config: ReviseConfig, corpus: Corpus) -> tuple[LoadedModel, RevisionSplits]:
    """The base model and the encoded corpus; whatever is random afterwards starts from the run's seed."""
    loaded = made_model(config, corpus)
    splits = build_revision_splits(
        corpus,
        loaded.tokenizer,
        max_length=config.max_length,
        holdout=config.holdout,
        seed=config.split_seed,
        edit_weight=config.edit_weight,
    )
    check_room(splits, usable_positions(loaded.model), loaded.source, config.max_length)
    cover(loaded, splits)
    held_as_asked(loaded, config)
    return loaded, splits


def held_as_asked(loaded: LoadedModel, config: ReviseConfig) -> None:
    """Holds the demo's model as another one is loaded."""
    if config.model == DEMO:
        hold(loaded, config.holding())


def cover(loaded: LoadedModel, splits: RevisionSplits) -> None:
    """Sees to it that every token that will be read or written has an embedding."""
    every = [tokens for split in (splits.train, *splits.report) for tokens in (*split.prompts, *split.completions)]
    cover_tokens(loaded.model, loaded.tokenizer, every, loaded.source)


def made_model(config: ReviseConfig, corpus: Corpus) -> LoadedModel:
    """The base model, as every part of the run finds it; the demo's as it was made, before :func:`held_as_asked`."""
    set_seed(config.seed)
    if config.model == DEMO:
        return _demo_model(config, corpus)
    return load_causal_lm(config.model, dropout=config.dropout, holding=config.holding())


def save_base(folder: Path, config: ReviseConfig, corpus: Corpus, splits: RevisionSplits | None = None) -> None:
    """Saves the base model of a run where an adapter of it finds it: the demo's stands nowhere else.

    Args:
        splits: what it is to have embeddings for; ``None``: it is saved as it was made.
    """
    loaded = made_model(config, corpus)
    if splits is not None:
        cover(loaded, splits)
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)


def _demo_model(config: ReviseConfig, corpus: Corpus) -> LoadedModel:
    rows = corpus.splits.get(TRAIN, [])
    texts = [write_prompt(row["before"], row["intentions"]) for row in rows] + [
        write_completion(row["after"]) for row in rows
    ]
    return build_demo_causal_lm(texts, corpus.labels, max_length=4 * config.max_length, dropout=config.dropout or 0.0)
