"""What every command does that trains one run: says what it would do, or trains and shows the result."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from ..utils.launch import leave_launch
from .launches import shows
from .options import apply_threads
from .streams import write_json

RESUME_HINT = "; continue with the same command and --resume"


def train(
    args: argparse.Namespace,
    kind: Any,
    config: Any,
    run: Callable[..., Any],
    show: Callable[[Any], None],
    *,
    hint: str = RESUME_HINT,
) -> int:
    """Trains a run and shows what it has come to; with ``--dry-run``, says what it would do.

    Args:
        kind: the task, for the plan.
        config: the settings of the run.
        run: trains it.
        show: prints its result.
        hint: how to go on after an interruption.
    """
    from ..models.load import quiet_transformers
    from ..tasks.plan.before import planned, planned_run
    from ..tasks.run.runner import plan_task
    from .display import TrainingDisplay, plan_lines
    from .dry_run import print_plan

    apply_threads(args.threads)
    quiet_transformers()
    if args.dry_run:
        plan = plan_task(kind, config, resume=args.resume, overwrite=args.overwrite)
        if shows():
            found, lines = planned_run(config), plan_lines(plan)
            if found is not None:
                plan["planned_peak"], lines["memory"] = found.row.peak, found.sentence()
            print_plan(plan, lines, args)
        return 0
    args.interrupted_hint = hint
    with TrainingDisplay() if shows() else nullcontext() as display, planned(config, display):
        result = run(config, resume=args.resume, overwrite=args.overwrite, on_event=display)
    leave_launch()
    if not shows():
        return 0
    if args.json:
        write_json(result.as_dict())
    else:
        show(result)
    return 0
