"""Runs a task: corpus, model, training, evaluation, files. What is one task's own is in its
:class:`~layerselect.tasks.run.task.Task`.
"""

from __future__ import annotations

import logging
from typing import Any

from ...integrations.transformers import last_checkpoint
from ...layers.find import split_parameters
from ...models.adapter_files import ADAPTER
from ...models.model_card import Held, Training, write_card
from ...models.saved_adapter import base_reference
from ...selector.savings import counted_costs
from ...selector.selector import FastSelector
from ...utils.launch import launched
from ...utils.linear_kind import elements
from .facts import saved_by_selection, training_facts, versions
from .folder import CHECKPOINTS, METRICS, PREDICTIONS, RESULTS, STATES, TRAINING_LOG, RunFolder
from .log import RunLog
from .memory import running_out
from .processes import Processes
from .publishing import publish
from .requirements import check_requirements
from .settings import TrainingSettings
from .sharded import as_asked, check_sharded_model
from .stages import EVALUATION, LOADING, TRAINING, WRITING, Stages
from .state_cache import RunCache
from .task import OnEvent, Outcome, RunResult, Task, Trained

logger = logging.getLogger(__name__)


def run_task(
    kind: type[Task[Any]],
    config: TrainingSettings,
    *,
    resume: bool = False,
    overwrite: bool = False,
    on_event: OnEvent | None = None,
) -> RunResult:
    """Trains one task and writes the folder of the run.

    Args:
        resume: continue the interrupted run at ``config.out``, if there is one. A run that was killed at any moment
            ends as if it had not been, bit for bit; one that is finished is read and returned.
        overwrite: replace an earlier run at ``config.out``.
        on_event: told of what is being done.

    Raises:
        LayerSelectError: whatever in the corpus, the model, the options or the place cannot be used. Nothing is then at
            ``config.out`` that was not there before. Where memory runs out
            (:class:`~layerselect.tasks.run.memory.OutOfMemory`), what was finished is kept.
    """
    check_requirements(config)
    processes = Processes.join(config.holding().device)
    on_event = on_event if processes.is_first else None
    stages = Stages(on_event)
    with processes.failing_together(), as_asked(config), running_out(config, lambda: stages.current):
        result = _run(kind, config, processes, resume, overwrite, on_event, stages)
        processes.leave()
        return result


def _run(
    kind: type[Task[Any]],
    config: TrainingSettings,
    processes: Processes,
    resume: bool,
    overwrite: bool,
    on_event: OnEvent | None,
    stages: Stages,
) -> RunResult:
    notify = on_event or (lambda name, record: None)
    processes.check_same({**config.of_all_processes(), "--resume": resume, "--overwrite": overwrite})
    folder = RunFolder(kind.command, config, resume=resume, overwrite=overwrite, processes=processes)
    if folder.finished:
        logger.info("the run in %s is finished", folder.path)
        return kind.finished(folder.path)
    if processes.is_first:
        _warn(config)
    stages.begin(LOADING)
    corpus = config.load_corpus()
    processes.check_same({"a corpus with the fingerprint": corpus.fingerprint})
    task = kind(config, corpus, notify)
    task.processes = processes
    config = task.config  # with what it left to the model
    check_sharded_model(config, task.model)
    processes.check_same({"a model with the fingerprint": task.fingerprint})
    # Whatever could be wrong with the input has shown by now; from here on there is something to keep.
    folder.open()
    task.begin(folder, stages)
    log = RunLog(folder, task.watched, task.evaluated, on_event)
    shared = folder.path / STATES
    with RunCache(config, task.cached_lengths(), on_event, processes=processes, shared=shared) as state_cache:
        trainer, callback = task.trainer(folder.path, log, state_cache)
        processes.check_joined(trainer.args.world_size)
        trainer.stages = stages
        costs = counted_costs(trainer.model)
        stages.begin(TRAINING)
        checkpoint = processes.from_first(lambda: last_checkpoint(folder.path / CHECKPOINTS))
        trainer.train(resume_from_checkpoint=checkpoint)
        training = training_facts(trainer, callback.selector, log)
        training |= saved_by_selection(trainer, callback.selector, costs, config.budget)
        stages.begin(EVALUATION)
        training |= task.evaluate(Trained(trainer, callback.selector, folder, state_cache, stages))
        training |= state_cache.facts()
    stages.begin(WRITING)
    with trainer.whole():
        if processes.is_first:
            task.save_adapter(folder.path / ADAPTER)
    stages.begin(task.scoring)
    outcome = task.outcome()
    training |= outcome.training
    stages.begin(WRITING)
    if processes.is_first:
        training = write_files(folder, task, outcome, training, callback.selector, stages)
    result = task.result(folder.finish(), outcome, training)
    if config.push_to_hub and processes.is_first:
        logger.info("the adapter is on the hub: %s", publish(result.folder, config))
    return result


def plan_task(
    kind: type[Task[Any]], config: TrainingSettings, *, resume: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """What :func:`run_task` would do. Everything is read and checked as it does; nothing is written, nothing trained.

    Returns:
        ``out``, ``state`` (``new``, ``resumed`` or ``finished``), ``model``, ``layers``, ``parameters``,
        ``trainable_parameters``, ``splits`` (examples of each), ``chosen_by``, ``steps``, ``steps_before``
        (of the training of a predictor that comes first) and ``processes``.

    Raises:
        LayerSelectError: as :func:`run_task`.
    """
    check_requirements(config)
    folder = RunFolder(kind.command, config, resume=resume, overwrite=overwrite)
    try:
        if folder.finished:
            return {"out": str(folder.path), "state": "finished"}
        _warn(config)
        with running_out(config, LOADING):
            task = kind(config, config.load_corpus(), lambda name, record: None)
        parameters = list(task.model.parameters())
        return {
            "out": str(config.out),
            "state": "resumed" if resume and folder.path.exists() else "new",
            "model": config.model,
            "layers": len(split_parameters(task.model).names),
            "parameters": sum(elements(p) for p in parameters),
            "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
            "splits": task.sizes,
            "chosen_by": task.watched,
            "steps": config.steps(next(iter(task.sizes.values()))),
            "steps_before": task.steps_before,
            "processes": launched(),
        }
    finally:
        folder.release()


def _warn(config: TrainingSettings) -> None:
    """Says which options change nothing."""
    for sentence in config.without_effect():
        logger.warning("%s", sentence)


def write_files(
    folder: RunFolder,
    task: Task[Any],
    outcome: Outcome,
    training: dict[str, Any],
    selector: FastSelector,
    stages: Stages,
) -> dict[str, Any]:
    """Writes every file of the run that the training has not written already; returns the facts of the training with
    the time that its stages took.
    """
    config, facts, made_by = task.config, corpus_facts(task, outcome), versions()
    chosen, rows = folder.write_selection(selector)
    reports = {
        result.split: {name: report.as_dict() for name, report in result.reports.items()} for result in outcome.results
    }
    write_card(
        folder.path / ADAPTER,
        task.usage(),
        Training(base_reference(config.model), config.adapter, facts, chosen, reports, made_by, held_facts(config)),
    )
    predictions = list(outcome.predictions)
    folder.write_json("config.json", {**folder.head(), "corpus": facts, "versions": made_by})
    folder.write_lines(PREDICTIONS, predictions)
    task.write_report(
        folder.path / "report.html",
        settings=config.as_dict(),
        corpus=facts,
        training={**training, "stages": stages.seconds()},
        versions=made_by,
        splits={result.split: dict(result.reports) for result in outcome.results},
        metrics=folder.read_lines(METRICS),
        losses=folder.read_lines(TRAINING_LOG),
        layer_names=chosen["layer_names"],
        frequency=chosen["frequency"],
        history=rows,
        **outcome.page,
    )
    # The last file, so that its times are those of nearly the whole run.
    splits = {result.split: result.as_dict() for result in outcome.results}
    last = {**training, "stages": stages.seconds()}
    folder.write_json(RESULTS, {"training": last, **outcome.more, "splits": splits})
    return last


def held_facts(config: TrainingSettings) -> Held:
    """How this machine has held the base model, for the card."""
    holding = config.holding()
    return Held(
        holding.dtype, holding.quantize, config.gradient_checkpointing, holding.device_map, launched(), config.shards()
    )


def corpus_facts(task: Task[Any], outcome: Outcome) -> dict[str, Any]:
    """What ``config.json`` says of the corpus."""
    corpus, config = task.corpus, task.config
    chooses = config.keep == "best" or config.patience is not None
    return {
        "name": corpus.name,
        "fingerprint": corpus.fingerprint,
        "labels": corpus.labels,
        "multi_label": corpus.multi_label,
        "chosen_by": task.watched if chooses else None,
        "splits": dict(outcome.splits),
        "notes": list(corpus.notes),
        "defects": [str(defect) for defect in corpus.defects[:20]],
        "defect_count": len(corpus.defects),
    }
