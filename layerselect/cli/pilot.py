"""``layerselect pilot``: finds the cheapest placement that is as good as training every layer, by short trainings."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import add_common_options, add_dry_run_option, add_json_option, add_threads_option, apply_threads
from .settings import add_config_option, add_preset_option, add_settings, chosen_settings, given, heading
from .streams import write_json

if TYPE_CHECKING:
    from ..tasks.intent.config import IntentConfig
    from .pilot_display import PilotDisplay

_EXAMPLE = """\
examples:
  layerselect pilot --data demo --model demo --out pilots/demo --max-cost 2
  layerselect pilot --data my.csv --model ORG/NAME --out pilots/mine
  layerselect pilot --data my.csv --model ORG/NAME --candidates upper:4,upper:8,card:cards/mine:8 --out pilots/mine
  layerselect intent --data my.csv --model ORG/NAME --placement pilots/mine --out runs/mine

The folder given with --out holds placement.json, pilot.json, pilot.html and, under kept, what each training came to.
The same command continues a pilot that was interrupted.
"""


def add_command(commands: Any, *, whole: bool = True) -> None:
    """Adds the command ``pilot`` to the parser; unless it is ``whole``, without its options."""
    parser = commands.add_parser(
        "pilot",
        help="find the cheapest placement that is as good as training every layer",
        description="Trains a few placements for a short time, with the same batches and the same held-out documents, "
        "drops those that are worse, and says which is the cheapest that is as good as training every layer, or what "
        "it would take to know. Intention prediction only.",
        epilog=_EXAMPLE,
    )
    if not whole:
        return
    from ..tasks.intent.config import IntentConfig
    from ..tasks.pilot.settings import MADE, PILOT, PilotSettings
    from ..tasks.run.headings import HEADINGS

    heading(parser, HEADINGS[0])
    heading(parser, PILOT)
    for title in HEADINGS[1:]:
        heading(parser, title)
    add_settings(parser, IntentConfig, only=("data", "model"))
    add_settings(parser, IntentConfig, only=("out",), helps={"out": "the folder that the pilot becomes"})
    job = heading(parser, "the job")
    add_config_option(job)
    add_preset_option(job)
    job.add_argument(
        "--overwrite", action="store_true", help="start afresh where a pilot is at --out (no other folder)"
    )
    add_dry_run_option(job)
    add_settings(parser, IntentConfig, only=("seed", "device"))
    add_threads_option(job)
    add_json_option(job)
    add_common_options(parser)
    add_settings(parser, PilotSettings)
    add_settings(parser, IntentConfig, leave_out=("data", "model", "out", "seed", "device", *MADE))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs ``layerselect pilot`` and returns its exit code."""
    from ..models.load import quiet_transformers
    from ..tasks.intent.config import IntentConfig
    from ..tasks.pilot.run import PilotJob, plan_pilot, run_pilot
    from ..tasks.pilot.settings import MADE, PilotSettings
    from .dry_run import print_plan
    from .pilot_display import PilotDisplay, pilot_plan_lines, print_pilot

    chosen = chosen_settings(args, "intent", IntentConfig)
    training = IntentConfig(**{name: value for name, value in chosen.items() if name not in MADE})
    job = PilotJob(training=training, overwrite=args.overwrite, **given(args, PilotSettings))
    apply_threads(args.threads)
    quiet_transformers()
    if args.dry_run:
        plan = plan_pilot(job)
        print_plan(plan, pilot_plan_lines(plan), args)
        return 0
    args.interrupted_hint = "; the same command continues it"
    with PilotDisplay() as display:
        finished = run_pilot(job, on_event=display)
    if args.json:
        write_json({"folder": str(finished.folder), **finished.to_dict()})
    else:
        print_pilot(finished, job)
    return 0


def with_pilot(args: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The settings of a training whose layers a pilot chooses in the folder ``args.pilot``; one that is finished there
    is taken as it is, if it keeps to ``--budget``, which is the pilot's.

    Returns:
        ``None`` if ``--dry-run`` was given and no pilot is finished there: what one would do has then been said.

    Raises:
        LayerSelectError: the layers are chosen otherwise, too, the training could not follow, the pilot cannot be run,
            it chose beyond the budget, or the training would cost more than what was counted.
    """
    from ..errors import LayerSelectError
    from ..models.load import quiet_transformers
    from ..placement import Placement
    from ..placement.candidates import keeps_to
    from ..tasks.intent.config import IntentConfig
    from ..tasks.pilot.following import settings_after
    from ..tasks.pilot.run import PILOT, check_alone
    from ..tasks.run.settings import OF_CACHE
    from .pilot_display import PilotDisplay

    caches = "state_cache" not in settings and settings.get("mode", "auto") in ("auto", "freeze")
    for name in ("rule", "placement", *(["cut"] if caches else [])):
        if name in settings:
            raise LayerSelectError(f"--pilot chooses the layers, and so does --{name}: leave out one of them")
    place, budget = Path(args.pilot), settings.get("budget")
    kept = {name: value for name, value in settings.items() if name != "budget"}
    without = {name: value for name, value in kept.items() if name not in OF_CACHE}
    for name, value in (("state_cache", "none"), ("mode", "gate"), ("mode", "observe")):
        if budget is not None and settings.get(name) == value:
            option = f"--{name.replace('_', '-')}"
            raise LayerSelectError(
                f"the pilot keeps to --budget {budget:g} with the layers below cached, and {option} {value} computes "
                f"them in every step: leave out {option}"
            )
    apply_threads(args.threads)
    quiet_transformers()
    with PilotDisplay() as display:
        if not (place / PILOT).is_file():
            check_alone()
            if caches and kept != without:
                IntentConfig(**kept, state_cache="auto")  # whose options are checked where something is cached
            _check_place_after(args, IntentConfig(**(without if caches else kept)))
            if not _run_first(args, settings, display):
                return None
        chosen = Placement.load(place)
        if not keeps_to(chosen.cost, budget):
            raise LayerSelectError(
                f"the pilot in {str(place)!r} chose layers whose step costs {chosen.cost:.2f}, and --budget is "
                f"{budget:g}: give --pilot another folder, so that one is run with this budget"
            )
        display.say("; ".join(filter(None, (chosen.chosen_by, chosen.doubt))))
    found = settings_after(place)
    if not caches:
        return {**kept, "placement": found["placement"]}
    return {**(kept if "state_cache" in found else without), **found}


def _check_place_after(args: argparse.Namespace, training: IntentConfig) -> None:
    """Checks before a pilot whether the training that follows may go where it is to go.

    Raises:
        LayerSelectError: it may not.
    """
    from ..errors import LayerSelectError
    from ..tasks.intent.task import IntentTask
    from ..tasks.run.folder import RunFolder

    if Path(training.out).resolve() == Path(args.pilot).resolve():
        raise LayerSelectError(f"--pilot and --out are both {training.out}: give each a folder of its own")
    if not args.resume:
        RunFolder(IntentTask.command, training, resume=False, overwrite=args.overwrite).release()


def _run_first(args: argparse.Namespace, settings: dict[str, Any], display: PilotDisplay) -> bool:
    """Runs the pilot of a training, or says with ``--dry-run`` what it would do. Returns whether it has run."""
    from ..errors import LayerSelectError
    from ..tasks.intent.config import IntentConfig
    from ..tasks.pilot.run import PilotJob, plan_pilot, run_pilot
    from ..tasks.pilot.settings import MADE
    from ..tasks.pilot.sizes import NoRoom
    from .dry_run import print_plan
    from .pilot_display import pilot_plan_lines

    training = {name: value for name, value in settings.items() if name not in MADE}
    job = PilotJob(training=IntentConfig(**{**training, "out": args.pilot}), budget=settings.get("budget"))
    try:
        if not args.dry_run:
            run_pilot(job, on_event=display)
            return True
        plan = {**plan_pilot(job), "then": settings["out"]}
    except NoRoom as error:
        own = f"'layerselect pilot --out {shlex.quote(args.pilot)}'"
        raise LayerSelectError(f"{error}. These are options of {own}: run that first") from error
    print_plan(plan, {**pilot_plan_lines(plan), "then": f"trains what it chooses, {settings['out']}"}, args)
    return False
