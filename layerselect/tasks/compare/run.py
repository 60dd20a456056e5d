"""Runs the runs of a comparison, several at a time, and collects what came of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...data import Corpus
from ...models.demo import SOURCE as DEMO
from ...models.folders import checked_source
from ...utils.claims import Claim
from ...utils.places import output_path
from ..run.requirements import check_requirements
from ..run.settings import TrainingSettings
from .comparison import Comparison, read_comparison
from .config import CompareConfig
from .launching import find_launcher, launcher_words
from .methods import Run
from .prospect import prospect_of
from .runs import RUNS
from .state import check_place, open_folder
from .workshop import Keeper, OnEvent, Workshop


def run_compare(config: CompareConfig, *, overwrite: bool = False, on_event: OnEvent | None = None) -> Comparison:
    """Trains every run that is not finished in ``config.out`` and reads all of them.

    A run that fails leaves a reason in the comparison and a log in ``runs/NAME.log``; it is tried again next time.
    Seeds stand in the outer loop, so that what else the machine does weighs on all methods alike.

    Args:
        overwrite: drop what an earlier comparison with other settings left in ``config.out``.
        on_event: told ``("prospect", {"prospect"})`` with a :class:`~layerselect.tasks.compare.prospect.Prospect`
            before anything is trained, ``("run", {"name", "state", "reason", "seconds", "done", "runs"})`` when a run
            starts and ends, and ``("note", {"name", "text"})`` of what a run wants to be shown meanwhile.

    Raises:
        LayerSelectError: ``config.out`` holds something else, or a comparison with other settings; or the corpus or the
            model of the missing runs cannot be read, and then nothing is written.
    """
    notify = on_event or (lambda kind, record: None)
    folder = _checked_place(config)
    _settings_of_rows(config)
    check_place(folder, config, overwrite)
    keeper = Keeper(config, folder)
    new = next((run for run in config.runs() if overwrite or not keeper.is_there(run)), None)
    corpus = None if new is None else _sources(config.settings(new, config.out))
    claim = Claim(folder)
    try:
        open_folder(folder, config, overwrite)
        return _compared(config, folder, notify, corpus)
    finally:
        claim.release()


def plan_compare(config: CompareConfig, *, overwrite: bool = False) -> dict[str, Any]:
    """What :func:`run_compare` would do; nothing is written, nothing trained.

    Returns:
        ``out``, ``splits`` (examples of each), ``runs`` (the name of each, and whether it is ``finished``), and
        ``prospect``, a :class:`~layerselect.tasks.compare.prospect.Prospect`, and the sentences of ``without_effect``.

    Raises:
        LayerSelectError: as :func:`run_compare`, or the corpus cannot be read.
    """
    folder = _checked_place(config)
    check_place(folder, config, overwrite)
    keeper = Keeper(config, folder)
    settings = _settings_of_rows(config)
    corpus = _sources(settings[0])
    runs = {run: not overwrite and keeper.is_there(run) for run in (*config.predictor_runs(), *config.runs())}
    missing = [run for run in config.runs() if not runs[run]]
    return {
        "out": str(folder),
        "splits": {name: len(rows) for name, rows in corpus.splits.items()},
        "runs": [{"name": run.name, "finished": finished} for run, finished in runs.items()],
        "prospect": prospect_of(config, missing, corpus=corpus),
        "without_effect": _without_effect(settings),
    }


def _checked_place(config: CompareConfig) -> Path:
    """The folder of the comparison, in which nothing lies that its runs read."""
    read = {f"--{name}": config.base.get(name) for name in ("model", "forgetting")}
    return output_path(config.out, apart={"--data": config.base.get("data")}, kept=read)


def _settings_of_rows(config: CompareConfig) -> list[TrainingSettings]:
    """The settings of a run of each row.

    Raises:
        LayerSelectError: this machine lacks what one of them asks for.
    """
    fold = 1 if config.folds else None
    settings = [config.settings(Run(variant, 0, fold), config.out) for variant in config.variants]
    find_launcher(launcher_words(config.launcher))
    for each in settings:
        check_requirements(each, several=config.launcher is not None)
    return settings


def _without_effect(settings: list[TrainingSettings]) -> list[str]:
    """The options that change nothing in any row, each with the reasons that rows have."""
    found = [each.without_effect() for each in settings]
    everywhere = set.intersection(*({sentence.split()[0] for sentence in several} for several in found))
    return list(dict.fromkeys(each for several in found for each in several if each.split()[0] in everywhere))


def _sources(settings: TrainingSettings) -> Corpus:
    """The corpus that a run will read.

    Raises:
        LayerSelectError: it cannot be read, or there is no such model.
    """
    if settings.model != DEMO:
        checked_source(settings.model)
    return settings.load_corpus()


def _compared(config: CompareConfig, folder: Path, notify: OnEvent, corpus: Corpus | None) -> Comparison:
    """What :func:`run_compare` does once its folder is its own.

    Args:
        corpus: as the first missing run reads it, if it was read.
    """
    runs, keeper = config.runs(), Keeper(config, folder)
    missing = [run for run in runs if not keeper.is_finished(run)]
    if missing:
        keeper.check_processes()
    after = {run: source for run in missing if (source := config.predictor_of(run))}
    predictors = [run for run in config.predictor_runs() if run in after.values()]
    with Workshop(config, folder, notify, keeper, len(predictors) + len(runs)) as workshop:
        if missing:
            notify("prospect", {"prospect": prospect_of(config, missing, workshop.try_run, corpus)})
        # First what others start from.
        tasks = {run: ("intent", config.predictor_settings(run, _place(folder, run)).as_dict()) for run in predictors}
        for run in runs:
            source = config.predictor_of(run)
            own = config.settings(run, _place(folder, run), _place(folder, source) if source else None)
            tasks[run] = (config.task, own.as_dict())
        reasons = workshop.train(tasks, after)
    return read_comparison(config, reasons)


def _place(folder: Path, run: Run) -> str:
    return str(folder / RUNS / run.name)
