"""From a corpus and a model to the folder of a pilot: placement.json, pilot.json, pilot.html."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ...errors import LayerSelectError
from ...placement import Placement
from ...placement.candidates import ALL, Candidate
from ...placement.piloting import PilotResult, mean_of_counts, pilot
from ...placement.race import Trial
from ...report import write_pilot_report
from ...utils.claims import Claim
from ...utils.folders import new_file
from ...utils.launch import launched
from ...utils.places import output_path
from ...utils.saved_files import DamagedFile, read_json
from ...utils.saved_schema import Fields, Flag, Mapped, Text
from ...utils.saved_words import in_words
from ..compare.counts import IntentCounts
from ..intent.config import IntentConfig
from ..run.memory import MEASURING, running_out
from ..run.requirements import check_requirements
from ..run.settings import PLACES
from ..run.stages import LOADING
from .bench import IDLE, Bench
from .kept import KEPT, KeptTrials
from .names import Asked, Scouted, asked_candidates
from .settings import LOSS, MADE, USUAL, PilotSettings
from .sizes import LEAST_STEPS, Corpus, Sizes, sizes_of

logger = logging.getLogger(__name__)

COMMAND = "layerselect pilot"
PILOT, STATE, PAGE = "pilot.json", "config.json", "pilot.html"
_SCRATCH = "scratch"
_STATE = Fields({"command": Text(), "settings": Mapped()})
OnEvent = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class PilotJob(PilotSettings):
    """One pilot; see also :class:`~layerselect.tasks.pilot.settings.PilotSettings`.

    Attributes:
        training: of the training that it is for.
        overwrite: replace an earlier pilot at ``training.out``.
    """

    training: IntentConfig
    overwrite: bool = False

    def fixed(self) -> dict[str, Any]:
        """The settings that a pilot which goes on must have alike."""
        training = {name: value for name, value in self.training.as_dict().items() if name not in (*PLACES, *MADE)}
        return {**training, **{each.name: getattr(self, each.name) for each in fields(PilotSettings)}}


@dataclass(frozen=True)
class Finished:
    """A finished pilot and its folder.

    Attributes:
        sizes: how long its trainings were.
        layer_names: of the model.
        caches: whether hidden states of this model can be cached.
    """

    folder: Path
    result: PilotResult
    sizes: Sizes
    layer_names: list[str]
    caches: bool

    def to_dict(self) -> dict[str, Any]:
        """The pilot as JSON values, as ``pilot.json`` has it."""
        sizes = {name: value for name, value in asdict(self.sizes).items() if name != "candidates"}
        return {
            "schema": "layerselect.pilot",
            "version": 1,
            **self.result.to_dict(),
            "sizes": sizes,
            "layer_names": self.layer_names,
            "caches": self.caches,
        }


def run_pilot(job: PilotJob, *, on_event: OnEvent | None = None) -> Finished:
    """Runs a pilot and writes its folder. What is finished there is not trained again.

    Raises:
        LayerSelectError: whatever in the corpus, the model, the options or the place cannot be used, or the cost has no
            room for a pilot.
    """
    notify = on_event or (lambda kind, record: None)
    if launched() > 1:
        raise LayerSelectError(
            f"a pilot runs in one process, and {launched()} were started together: run it alone, and give --placement "
            "to the training"
        )
    folder = _place(job)
    claim = Claim(folder)
    try:
        return _run(job, folder, notify)
    finally:
        claim.release()


def settings_after(folder: str | Path) -> dict[str, Any]:
    """The settings of a training that takes what a finished pilot has chosen: the placement and, where the layers below
    it can be cached, the cache.

    Raises:
        LayerSelectError: no finished pilot is there.
    """
    place = Path(folder)
    chosen = Placement.load(place)
    try:
        caches = read_json(place / PILOT, Fields({"caches": Flag()}), advice="run the pilot again", constants=True)
    except DamagedFile as error:
        raise LayerSelectError(str(error)) from error
    cut = min(chosen.layers[0] if chosen.layers else len(chosen.names), len(chosen.names) - 1)
    cached = {"state_cache": "cached", "cut": str(cut)} if caches["caches"] and cut >= 1 else {}
    return {"placement": str(folder), **cached}


def plan_pilot(job: PilotJob) -> dict[str, Any]:
    """What :func:`run_pilot` would do. Everything is read and checked; nothing is kept, nothing trained.

    Returns:
        ``out``, ``model``, ``layers``, ``steps``, ``held_out``, ``trainings`` (at most), ``candidates``, ``left_out``
        and ``cost``, the most that it may be. Candidates that a first training has to name count as those that train
        all layers.

    Raises:
        LayerSelectError: as :func:`run_pilot`.
    """
    folder = _place(job)
    scratch = folder.with_name(folder.name + ".partial")
    with running_out(job.training, LOADING):
        bench, asked = _bench(job, scratch)
    unknown = {name: tuple(range(count)) for name, (_, count) in asked.measured.items()}
    sizes = _sizes({**asked.layers, **unknown}, bench, job, scouts=bool(asked.measured))
    return {
        "out": str(folder),
        "model": job.training.model,
        "layers": len(bench.layer_names),
        "examples": bench.examples,
        "steps": sizes.steps,
        "held_out": sizes.held_out,
        "trainings": len(sizes.candidates) * job.rounds().trials,
        "candidates": [each.name for each in sizes.candidates],
        "left_out": sizes.left_out,
        "cost": sizes.most,
    }


def _run(job: PilotJob, folder: Path, notify: OnEvent) -> Finished:
    if job.overwrite:
        shutil.rmtree(folder / KEPT, ignore_errors=True)
    scratch = folder / _SCRATCH
    begun = time.monotonic()
    notify("stage", {"name": LOADING})
    with running_out(job.training, LOADING):
        bench, asked = _bench(job, scratch)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / STATE, {"command": COMMAND, "settings": job.fixed()})
    kept = KeptTrials(folder)
    with running_out(job.training, MEASURING):
        scouted = _scouted(job, bench, asked, kept, notify)
        sizes = _sizes(asked.known(scouted), bench, job, scouts=scouted is not None)
        notify("sized", {"sizes": sizes, "rounds": job.rounds()})

        def train(candidate: Candidate, seed: int, fold: int) -> Trial:
            notify("training", {"candidate": candidate.name, "seed": seed, "fold": fold})
            options = {"steps": sizes.steps, "held_out": sizes.held_out, "cut": sizes.cut_of(candidate)}
            return kept.trial(candidate, seed, fold, lambda: bench.train(candidate, seed, fold, **options))

        result = pilot(
            sizes.candidates,
            train,
            margin=job.margin,
            max_cost=job.max_cost - sizes.scouting,
            rounds=job.rounds(),
            quality=mean_of_counts if job.by == LOSS else IntentCounts().quality,
            idle=Candidate(IDLE, (), 0.0),
            on_event=notify,
        )
    result = replace(result, cost=result.cost + sizes.scouting)
    finished = Finished(folder, result, sizes, bench.layer_names, bench.caches)
    result.placement(bench.layer_names).save(folder)
    _write(folder / PILOT, finished.to_dict())
    write_pilot_report(folder / PAGE, finished.to_dict(), job.fixed(), by=job.by, seconds=time.monotonic() - begun)
    shutil.rmtree(scratch, ignore_errors=True)
    return finished


def _bench(job: PilotJob, scratch: Path) -> tuple[Bench, Asked]:
    bench = Bench(job.training, job.training.load_corpus(), folds=job.folds, by=job.by, scratch=scratch)
    return bench, asked_candidates(job.candidates, bench.layer_names, head=bench.has_head)


def _scouted(job: PilotJob, bench: Bench, asked: Asked, kept: KeptTrials, notify: OnEvent) -> Scouted | None:
    """The first training, if some candidates need it and it leaves most of the cost for the others."""
    if not asked.measured:
        return None
    steps = job.steps or LEAST_STEPS
    if job.candidates.strip() == USUAL and steps / _full(job, bench) > job.max_cost / 5:
        logger.info("no first training, which the cost has no room for: left out are %s", ", ".join(asked.measured))
        return None
    notify("training", {"candidate": ALL, "seed": 0, "fold": None})
    return kept.scouted(lambda: bench.scout(steps))


def _sizes(layers: dict[str, tuple[int, ...]], bench: Bench, job: PilotJob, *, scouts: bool) -> Sizes:
    corpus = Corpus(bench.examples, job.training.batch_size * job.training.accumulate, _full(job, bench))
    steps = (job.steps or LEAST_STEPS) if scouts else 0
    return sizes_of(layers, bench.costs, corpus, job, caches=bench.caches, scouting_steps=steps)


def _full(job: PilotJob, bench: Bench) -> int:
    """Steps of a full training."""
    return job.training.steps(bench.examples)


def _place(job: PilotJob) -> Path:
    """The folder of the pilot, which may go there, on a machine that has what it asks for.

    Raises:
        LayerSelectError: the machine has not, something else is there, or a pilot with other settings.
    """
    training = job.training
    check_requirements(training)
    folder = output_path(training.out, apart={"--data": training.data}, kept={"--model": training.model})
    _check_place(folder, job)
    return folder


def _check_place(folder: Path, job: PilotJob) -> None:
    if folder.exists() and not folder.is_dir():
        raise LayerSelectError(f"--out {str(folder)!r} is a file: choose another place")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    try:
        saved = read_json(folder / STATE, _STATE, advice="remove it", constants=True)
    except DamagedFile:
        saved = {"command": ""}
    if saved["command"] != COMMAND:
        raise LayerSelectError(f"--out {str(folder)!r} is a folder that no pilot made: choose another place")
    theirs, ours = saved["settings"], json.loads(json.dumps(job.fixed()))
    changed = sorted(name for name in {*theirs, *ours} if theirs.get(name) != ours.get(name))
    if changed and not job.overwrite:
        name = changed[0]
        raise LayerSelectError(
            f"the pilot in {str(folder)!r} has --{name.replace('_', '-')} {in_words(theirs.get(name))}, not "
            f"{in_words(ours.get(name))}: repeat its options to continue it, or start afresh with --overwrite"
        )


def _write(path: Path, content: dict[str, Any]) -> None:
    with new_file(path) as scratch:
        scratch.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
