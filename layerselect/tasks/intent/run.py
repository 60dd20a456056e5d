"""One run from a corpus to a trained predictor: load, encode, adapt, train, evaluate, write."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import set_seed

from ...data import Corpus
from ...errors import LayerSelectError
from ...integrations.transformers import last_checkpoint
from ...models.adapter_files import ADAPTER
from ...models.adapters import add_adapter
from ...models.demo import SOURCE as DEMO
from ...models.demo import build_demo_causal_lm, build_demo_classifier
from ...models.load import LoadedModel, load_causal_lm, load_classifier
from ...models.positions import usable_positions
from ...models.saved_adapter import BASE, base_reference
from ...models.vocabulary import cover_tokens
from ...transfer import base_fingerprint
from ...utils.saved_schema import Fields, Mapped
from ..run.facts import training_facts
from ..run.folder import CHECKPOINTS, RESULTS, RunFolder
from ..run.log import RunLog
from ..run.probe import reserve_for_probe
from ..run.settings import check_device
from ..run.state_cache import RunCache
from ..text.rows import TRAIN
from ..text.verbalizer import Verbalizer, label_sets
from .config import IntentConfig
from .dataset import Encoder, Splits, build_splits, make_targets
from .finish import COMMAND, final_scores, write_files
from .predict import save_adapter
from .results import SPLIT, SplitResult, split_results
from .training import EVALUATED, build_trainer, check_selection, kept_lengths

logger = logging.getLogger(__name__)

OnEvent = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        folder: where its files are.
        splits: the results on every reported split, baselines included.
        training: steps, seconds per step, trained layers, and what else describes the training.
    """

    folder: Path
    splits: list[SplitResult]
    training: dict[str, Any]


def run_intent(
    config: IntentConfig, *, resume: bool = False, overwrite: bool = False, on_event: OnEvent | None = None
) -> RunResult:
    """Fine-tunes a model to predict revision intentions and writes the run's folder.

    Args:
        resume: continue the interrupted run at ``config.out``, if there is one. A run that was killed at any moment
            ends as if it had not been, bit for bit; one that is finished is read and returned.
        overwrite: replace an earlier run at ``config.out``.
        on_event: told of steps, losses and evaluations as they come (see ``RunLog``).

    Raises:
        LayerSelectError: whatever in the corpus, the model, the options or the place cannot be used. Nothing is then at
            ``config.out`` that was not there before.
    """
    check_device(config.device)
    folder = RunFolder(COMMAND, config, resume=resume, overwrite=overwrite)
    if folder.finished:
        logger.info("the run in %s is finished", folder.path)
        return _finished(folder)
    corpus = config.load_corpus()
    loaded, words, encoder = prepare(config, corpus)
    fingerprint = base_fingerprint(loaded.model, loaded.layer_names)
    whole = build_splits(corpus, encoder, holdout=config.holdout, seed=config.split_seed)
    cover(loaded, words, whole)
    train, probe = reserve_for_probe(whole.train, config)
    splits = replace(whole, train=train, probe=probe)
    base = copy.deepcopy(loaded.model) if config.model == DEMO and config.adapter != "none" else None
    model = add_adapter(loaded, config.adapter_config())
    check_selection(model, loaded, splits, words, config, multi_label=corpus.multi_label)
    # Whatever could be wrong with the input has shown by now; from here on there is something to keep.
    folder.open()
    if base is not None:
        base.save_pretrained(folder.path / ADAPTER / BASE)
        loaded.tokenizer.save_pretrained(folder.path / ADAPTER / BASE)
    log = RunLog(folder, splits.select.name if splits.select else None, EVALUATED, on_event)
    with RunCache(config, kept_lengths(splits, writes=words is not None), on_event) as state_cache:
        trainer, callback = build_trainer(
            model,
            loaded.tokenizer,
            splits,
            corpus.labels,
            config,
            folder.path,
            multi_label=corpus.multi_label,
            callbacks=[log],
            state_cache=state_cache,
            words=words,
        )
        trainer.train(resume_from_checkpoint=last_checkpoint(folder.path / CHECKPOINTS))
        with state_cache.reading(trainer.model, callback.selector):
            scores = final_scores(trainer, splits, folder, multi_label=corpus.multi_label)
        training = {**training_facts(trainer, callback.selector, log), **state_cache.facts()}
    # The baselines are the same whatever the rule holds out.
    results = split_results(whole, scores, corpus.labels, multi_label=corpus.multi_label)
    save_adapter(
        folder.path / ADAPTER,
        model,
        encoder,
        base_model=base_reference(config.model),
        kind=config.adapter,
        multi_label=corpus.multi_label,
        fingerprint=fingerprint,
        answers=words.answers if words else None,
    )
    write_files(folder, config, corpus, splits, scores, results, training, callback.selector)
    return RunResult(folder.finish(), results, training)


def _finished(folder: RunFolder) -> RunResult:
    saved = folder.read_json(RESULTS, Fields({"training": Mapped(), "splits": Mapped(SPLIT)}))
    splits = [SplitResult.from_dict(name, values) for name, values in saved["splits"].items()]
    return RunResult(folder.path, splits, saved["training"])


def prepare(config: IntentConfig, corpus: Corpus) -> tuple[LoadedModel, Verbalizer | None, Encoder]:
    """The base model, what it is to write if it writes, and how it reads; whatever is random afterwards starts from the
    run's seed.
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
            return load_causal_lm(config.model, dropout=config.dropout)
        return load_classifier(config.model, corpus.labels, multi_label=corpus.multi_label, dropout=config.dropout)
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
