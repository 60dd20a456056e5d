"""From a corpus and a model to the folder of a pilot: placement.json, pilot.json, pilot.html."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ...errors import LayerSelectError
from ...placement.candidates import ALL, Candidate
from ...placement.piloting import PilotResult, mean_of_counts, pilot
from ...placement.race import Trial
from ...report import write_pilot_report
from ...utils.claims import Claim
from ...utils.continued import check_continues
from ...utils.folders import new_file
from ...utils.launch import launched
from ...utils.places import output_path
from ...utils.saved_documents import DocumentKind
from ...utils.saved_files import DamagedFile, read_json
from ...utils.saved_schema import Fields, Mapped, Maybe, Number, Text
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
KIND = DocumentKind(
    schema="layerselect.pilot",
    versions=(1,),
    file=PILOT,
    name="pilot",
    title="pilot",
    command=COMMAND,
    again="run it again",
)
_SCRATCH = "scratch"
#: By the clock, and of the processors of this process; ``None`` of a pilot that was interrupted.
_TIMES = ("seconds", "processor_seconds")
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
        more = {"sizes": sizes, "layer_names": self.layer_names, "caches": self.caches}
        return KIND.stamped({**self.result.to_dict(), **more})


def run_pilot(job: PilotJob, *, on_event: OnEvent | None = None) -> Finished:
    """Runs a pilot and writes its folder. What is finished there is not trained again.

    Raises:
        LayerSelectError: whatever in the corpus, the model, the options or the place cannot be used, or the cost has no
            room for a pilot.
    """
    notify = on_event or (lambda kind, record: None)
    check_alone()
    folder = _place(job)
    claim = Claim(folder)
    try:
        return _run(job, folder, notify)
    finally:
        claim.release()


def check_alone() -> None:
    """Checks that no other process was started beside this one.

    Raises:
        LayerSelectError: a launcher has started several.
    """
    if launched() > 1:
        raise LayerSelectError(
            f"a pilot runs in one process, and {launched()} were started together: run it alone, and give --placement "
            "to the training"
        )


def plan_pilot(job: PilotJob) -> dict[str, Any]:
    """What :func:`run_pilot` would do. Everything is read and checked; nothing is kept, nothing trained.

    Returns:
        ``out``, ``model``, ``layers``, ``steps``, ``held_out``, ``trainings`` (at most), ``candidates``, ``left_out``
        and ``cost``, the most that it may be. Candidates that a first training has to tell count as as many of the
        lowest layers, which cost the most; the training leaves out those that are the same as others.

    Raises:
        LayerSelectError: as :func:`run_pilot`.
    """
    folder = _place(job)
    scratch = folder.with_name(folder.name + ".partial")
    bench, _, _, sizes = _prepared(job, scratch)
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
    scratch = folder / _SCRATCH
    begun = time.monotonic(), time.process_time()
    notify("stage", {"name": LOADING})
    bench, asked, steps, sizes = _prepared(job, scratch)  # where there is no room, nothing is written
    if job.overwrite:
        shutil.rmtree(folder / KEPT, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / STATE, {"command": COMMAND, "settings": job.fixed()})
    kept = KeptTrials(folder)
    goes_on = kept.holds_some
    with running_out(job.training, MEASURING):

        def scout() -> Scouted:
            notify("training", {"candidate": ALL, "seed": 0, "fold": None})
            return bench.scout(steps)

        if steps:
            sizes = _sizes(asked.known(kept.scouted(scout)), bench, job, steps)
        notify("sized", {"sizes": sizes, "rounds": job.rounds()})

        def train(candidate: Candidate, seed: int, fold: int) -> Trial:
            def new() -> Trial:
                notify("training", {"candidate": candidate.name, "seed": seed, "fold": fold})
                options = {"steps": sizes.steps, "held_out": sizes.held_out, "cut": sizes.cut_of(candidate)}
                return bench.train(candidate, seed, fold, **options)

            return kept.trial(candidate, seed, fold, new)

        result = pilot(
            sizes.candidates,
            train,
            margin=job.margin,
            max_cost=job.max_cost - sizes.scouting,
            budget=job.budget,
            rounds=job.rounds(),
            quality=mean_of_counts if job.by == LOSS else IntentCounts().quality,
            idle=Candidate(IDLE, (), 0.0),
            on_event=notify,
        )
    result = replace(result, cost=result.cost + sizes.scouting)
    finished = Finished(folder, result, sizes, bench.layer_names, bench.caches)
    result.placement(bench.layer_names).save(folder)
    times = _saved_times(folder) if goes_on else (time.monotonic() - begun[0], time.process_time() - begun[1])
    KIND.write(folder, {**finished.to_dict(), **dict(zip(_TIMES, times, strict=True))})
    write_pilot_report(folder / PAGE, finished.to_dict(), job.fixed(), by=job.by, seconds=times[0])
    shutil.rmtree(scratch, ignore_errors=True)
    return finished


def _saved_times(folder: Path) -> tuple[float | None, float | None]:
    """What a finished pilot took, as it said itself. Nobody knows it of one that was interrupted."""
    kind = Fields({}, optional=dict.fromkeys(_TIMES, Maybe(Number(0))))
    try:
        saved = read_json(folder / PILOT, kind, advice="run it again")
    except DamagedFile:
        return None, None
    return saved.get(_TIMES[0]), saved.get(_TIMES[1])


def _prepared(job: PilotJob, scratch: Path) -> tuple[Bench, Asked, int, Sizes]:
    """The bench, the candidates, the steps of a first training, and what there is room for before that tells more.

    Raises:
        NoRoom: there is none.
    """
    with running_out(job.training, LOADING):
        bench = Bench(job.training, job.training.load_corpus(), folds=job.folds, by=job.by, scratch=scratch)
        asked = asked_candidates(job.candidates, bench.layer_names, head=bench.has_head)
    steps = _scouting_steps(job, bench, asked)
    layers = asked.planned() if steps else asked.known(None)
    return bench, asked, steps, _sizes(layers, bench, job, steps, asked.measured)


def _scouting_steps(job: PilotJob, bench: Bench, asked: Asked) -> int:
    """Steps of the first training; 0 where no candidate needs it, or too little of the cost would be left."""
    steps = job.steps or LEAST_STEPS
    if not asked.measured:
        return 0
    if job.candidates.strip() == USUAL and steps / job.training.steps(bench.examples) > job.max_cost / 5:
        logger.info("no first training, which the cost has no room for: left out are %s", ", ".join(asked.measured))
        return 0
    return steps


def _sizes(
    layers: dict[str, tuple[int, ...]],
    bench: Bench,
    job: PilotJob,
    scouting_steps: int,
    open_names: Collection[str] = (),
) -> Sizes:
    corpus = Corpus(
        bench.examples, job.training.batch_size * job.training.accumulate, job.training.steps(bench.examples)
    )
    return sizes_of(
        layers,
        bench.costs,
        corpus,
        job,
        caches=bench.caches,
        scouting_steps=scouting_steps,
        open_names=open_names,
    )


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
    try:
        saved = read_json(folder / STATE, _STATE, advice="remove it", constants=True)
    except DamagedFile:
        saved = {"command": ""}
    settings = saved["settings"] if saved["command"] == COMMAND else None
    check_continues(folder, settings, json.loads(json.dumps(job.fixed())), what="pilot", overwrite=job.overwrite)


def _write(path: Path, content: dict[str, Any]) -> None:
    with new_file(path) as scratch:
        scratch.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
