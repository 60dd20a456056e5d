"""One run from a corpus to a trained generator: predictor, transfer, training, revisions, scores, files."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import set_seed

from ...data import Corpus
from ...integrations.transformers import last_checkpoint
from ...models.adapter_files import ADAPTER
from ...models.adapters import add_adapter
from ...models.demo import SOURCE as DEMO
from ...models.demo import build_demo_causal_lm
from ...models.load import LoadedModel, load_causal_lm
from ...models.positions import usable_positions
from ...models.saved_adapter import base_reference, save_adapted
from ...models.vocabulary import cover_tokens
from ...transfer import base_fingerprint
from ...utils.saved_schema import Fields, Mapped, Maybe, fields_of
from ..intent import run_intent
from ..run.facts import kept_step, steps_per_epoch, training_facts
from ..run.folder import CHECKPOINTS, METRICS, RESULTS, RunFolder
from ..run.log import RunLog
from ..run.probe import give_probe, reserve_for_probe
from ..run.settings import check_device
from ..run.state_cache import RunCache, try_selector
from ..run.training import check_training
from ..text.completions import CompletionSplit
from ..text.rows import TRAIN
from .config import ReviseConfig
from .examples import RevisionSplits, build_revision_splits, check_room, token_budget, token_counter
from .finish import COMMAND, write_files
from .generate import generate
from .passes import check_passes
from .prompts import read_completion, write_completion, write_prompt
from .results import SPLIT, SplitResult, scored_part, split_result
from .training import EVALUATED, RevisionTrainer, build_trainer
from .transfer import Transfer, check_rule, generator_rule, hand_over, look_at, measure_alignment

logger = logging.getLogger(__name__)

#: In the folder of a run: the predictor that it trained, and the demo's model.
PREDICTOR = "predictor"
DEMO_MODEL = "model"

OnEvent = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class ReviseResult:
    """A finished run.

    Attributes:
        folder: where its files are.
        splits: the scores on every reported split.
        training: steps, seconds per step, losses, and what else describes the training.
        transfer: what was transferred; ``None`` where nothing was.
    """

    folder: Path
    splits: list[SplitResult]
    training: dict[str, Any]
    transfer: Transfer | None


def run_revise(
    config: ReviseConfig, *, resume: bool = False, overwrite: bool = False, on_event: OnEvent | None = None
) -> ReviseResult:
    """Fine-tunes a decoder to write revisions (Intention-Tuning, arXiv 2602.00477) and writes the run's folder.

    Args:
        resume: continue the interrupted run at ``config.out``, if there is one; a finished one is read and returned.
        overwrite: replace an earlier run at ``config.out``.
        on_event: told of what is being done: ``("phase", {"name"})``, the events of ``RunLog``, and ``("revise",
            {"split", "done", "examples"})``.

    Raises:
        LayerSelectError: whatever in the corpus, the model, the predictor, the options or the place cannot be used.
            Nothing is then at ``config.out`` that was not there before.
    """
    notify = on_event or (lambda kind, record: None)
    check_device(config.device)
    folder = RunFolder(COMMAND, config, resume=resume, overwrite=overwrite)
    if folder.finished:
        logger.info("the run in %s is finished", folder.path)
        return _finished(folder)
    corpus = config.load_corpus()
    loaded, splits = prepare(config, corpus)
    fingerprint = base_fingerprint(loaded.model, loaded.layer_names)
    check_rule(config, len(loaded.layer_names))
    model = add_adapter(loaded, config.adapter_config())
    check_training(model, config, evaluates=splits.watch is not None)
    check_passes(model, loaded, splits)
    size = len(splits.train)
    try_selector(
        model, config, lambda number: look_at(model, splits.train.subset([number % size]), loaded.tokenizer, config)
    )
    parts = {split.name: scored_part(split, config.eval_limit, config.split_seed) for split in splits.report}
    watch = parts[splits.watch.name] if splits.watch else None
    transfer = None
    if config.predictor is not None:
        transfer = _hand_over(model, loaded, config.predictor, config, splits, fingerprint)
    # Whatever could be wrong with the input has shown by now; from here on there is something to keep.
    folder.open()
    if config.trains_predictor:
        del model, loaded  # two models need not be in memory
        notify("phase", {"name": "predictor"})
        _train_predictor(config, corpus, folder, notify)
        loaded = _base(config, corpus)
        _cover(loaded, splits)
        model = add_adapter(loaded, config.adapter_config())
        transfer = _hand_over(model, loaded, folder.path / PREDICTOR, config, splits, fingerprint)
    notify("phase", {"name": "generator"})
    start_loss = transfer.first_loss if transfer else look_at(model, splits.train, loaded.tokenizer, config)
    # Of rules that pick from a frequency none makes probes.
    train, probe = (
        (splits.train, None) if transfer and config.transfer == "shared" else reserve_for_probe(splits.train, config)
    )
    rule = generator_rule(config, transfer)
    log = RunLog(folder, watch.name if watch else None, EVALUATED, on_event)
    kept = [length for split in (train, probe, *parts.values()) if split is not None for length in split.lengths]
    with RunCache(config, kept, on_event) as state_cache:
        trainer, callback = build_trainer(
            model,
            loaded.tokenizer,
            train,
            watch,
            config,
            folder.path,
            rule=rule,
            callbacks=[log],
            state_cache=state_cache,
        )
        give_probe(rule, trainer, probe, trainer.data_collator, config.batch_size, state_cache)
        trainer.train(resume_from_checkpoint=last_checkpoint(folder.path / CHECKPOINTS))
        training = {
            **training_facts(trainer, callback.selector, log),
            "start_loss": start_loss,
            "end_loss": _end_loss(trainer),
        }
        if transfer is not None:
            measure_alignment(transfer, callback.selector, config)
            training["alignment_ratio"] = transfer.ratio
        written = {part.name: _revise(trainer.model, loaded, part, config, notify) for part in parts.values()}
        with state_cache.reading(trainer.model, callback.selector):
            losses = {part.name: _final_loss(trainer, part, folder) for part in parts.values()}
        training |= state_cache.facts()
    save_adapted(
        folder.path / ADAPTER,
        model,
        loaded.tokenizer,
        task="revise",
        base_model=base_reference(config.model),
        kind=config.adapter,
        fingerprint=fingerprint,
        more={"labels": list(corpus.labels), "max_length": config.max_length},
    )
    untrained = _untrained(config, corpus, list(parts.values()), notify) if config.untrained else {}
    results = [
        split_result(parts[split.name], len(split), losses[split.name], written[split.name], untrained.get(split.name))
        for split in splits.report
    ]
    write_files(
        folder, config, corpus, splits, list(parts.values()), written, results, training, transfer, callback.selector
    )
    return ReviseResult(folder.finish(), results, training, transfer)


def _finished(folder: RunFolder) -> ReviseResult:
    kind = Fields({"training": Mapped(), "splits": Mapped(SPLIT), "transfer": Maybe(fields_of(Transfer))})
    saved = folder.read_json(RESULTS, kind)
    splits = [SplitResult.from_dict(name, values) for name, values in saved["splits"].items()]
    transfer = Transfer(**saved["transfer"]) if saved["transfer"] else None
    return ReviseResult(folder.path, splits, saved["training"], transfer)


def prepare(config: ReviseConfig, corpus: Corpus) -> tuple[LoadedModel, RevisionSplits]:
    """The base model and the encoded corpus; whatever is random afterwards starts from the run's seed."""
    loaded = _base(config, corpus)
    splits = build_revision_splits(
        corpus, loaded.tokenizer, max_length=config.max_length, holdout=config.holdout, seed=config.split_seed
    )
    check_room(splits, usable_positions(loaded.model), loaded.source, config.max_length)
    _cover(loaded, splits)
    return loaded, splits


def _cover(loaded: LoadedModel, splits: RevisionSplits) -> None:
    """Sees to it that every token that will be read or written has an embedding."""
    every = [tokens for split in (splits.train, *splits.report) for tokens in (*split.prompts, *split.completions)]
    cover_tokens(loaded.model, loaded.tokenizer, every, loaded.source)


def _base(config: ReviseConfig, corpus: Corpus) -> LoadedModel:
    """The base model, as every part of the run finds it."""
    set_seed(config.seed)
    return _demo_model(config, corpus) if config.model == DEMO else load_causal_lm(config.model, dropout=config.dropout)


def _demo_model(config: ReviseConfig, corpus: Corpus) -> LoadedModel:
    rows = corpus.splits.get(TRAIN, [])
    texts = [write_prompt(row["before"], row["intentions"]) for row in rows] + [
        write_completion(row["after"]) for row in rows
    ]
    return build_demo_causal_lm(texts, corpus.labels, max_length=4 * config.max_length, dropout=config.dropout or 0.0)


def _train_predictor(config: ReviseConfig, corpus: Corpus, folder: RunFolder, notify: OnEvent) -> None:
    base = None
    if config.model == DEMO:
        # Both steps need one base model, so the generator's is the predictor's.
        base = folder.path / DEMO_MODEL
        if not (base / "config.json").is_file():
            loaded = _base(config, corpus)
            loaded.model.save_pretrained(base)
            loaded.tokenizer.save_pretrained(base)
    run_intent(
        config.predictor_config(str(folder.path / PREDICTOR), str(base) if base else None), resume=True, on_event=notify
    )


def _hand_over(
    model: nn.Module,
    loaded: LoadedModel,
    predictor: str | Path,
    config: ReviseConfig,
    splits: RevisionSplits,
    fingerprint: str,
) -> Transfer:
    return hand_over(model, predictor, config, splits.train, tokenizer=loaded.tokenizer, fingerprint=fingerprint)


def _revise(
    model: nn.Module, loaded: LoadedModel, part: CompletionSplit, config: ReviseConfig, notify: OnEvent
) -> list[str]:
    """What the model writes for the examples of ``part``."""
    count = token_counter(loaded.tokenizer)
    written = generate(
        model,
        loaded.tokenizer,
        part.prompts,
        config.generation(),
        batch_size=2 * config.batch_size,
        budgets=[token_budget(count(row["source"])) for row in part.rows],
        device=next(model.parameters()).device,
        on_batch=lambda done, total: notify("revise", {"split": part.name, "done": done, "examples": total}),
    )
    return [read_completion(text) for text in written]


def _untrained(
    config: ReviseConfig, corpus: Corpus, parts: list[CompletionSplit], notify: OnEvent
) -> dict[str, list[str]]:
    notify("phase", {"name": "untrained model"})
    loaded = _base(config, corpus)
    cover_tokens(loaded.model, loaded.tokenizer, (tokens for part in parts for tokens in part.prompts), loaded.source)
    return {part.name: _revise(loaded.model, loaded, part, config, notify) for part in parts}


def _final_loss(trainer: RevisionTrainer, part: CompletionSplit, folder: RunFolder) -> float:
    """The trained model's loss on a split, also as a line of ``metrics.jsonl``."""
    loss = trainer.predict(part, metric_key_prefix="final").metrics["final_loss"]
    kept = kept_step(trainer)
    line = {"split": part.name, "step": kept, "epoch": kept / steps_per_epoch(trainer), "loss": loss, "final": True}
    folder.append_line(METRICS, line)
    return loss


def _end_loss(trainer: RevisionTrainer) -> float | None:
    """The mean of the last tenth of the logged training losses."""
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last) if last else None
