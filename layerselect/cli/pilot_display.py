"""What the pilot command shows: what it will cost, how far it is, who left and why, and the answer."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..report.numbers import plural, share
from ..report.pilot import left_in_words
from .progress import StageLine

if TYPE_CHECKING:
    from ..placement.race import Race
    from ..tasks.pilot.run import Finished, PilotJob
    from ..tasks.pilot.sizes import Sizes


class PilotDisplay(StageLine):
    """Shows the events of a pilot on stderr."""

    def __init__(self) -> None:
        super().__init__()
        self._done = self._trainings = 0
        self._trains = False  # since the last training was told of; one that was kept is not trained again

    def __enter__(self) -> PilotDisplay:
        super().__enter__()
        return self

    def __call__(self, kind: str, record: dict[str, Any]) -> None:
        if kind == "stage":
            self.begin(record["name"])
        elif kind == "sized":
            sizes, rounds = record["sizes"], record["rounds"]
            self._trains = False
            self._trainings = len(sizes.candidates) * rounds.trials
            for line in size_lines(sizes, rounds.trials):
                self.say(line)
            self.begin("training", self._trainings)
        elif kind == "training":
            where = "first training" if record["fold"] is None else f"seed {record['seed']}, part {record['fold'] + 1}"
            self.facts(f"{record['candidate']}, {where}")
            self._trains = True
        elif kind == "trained" and not record["idle"]:
            self._done += 1
            self.advance(self._done, found=not self._trains)
            self._trains = False
        elif kind == "round":
            self._round(record["race"], record["cost"])

    def _round(self, race: Race, cost: float) -> None:
        left = [
            f"{name} leaves: {standing.state}"
            for name, standing in race.standings.items()
            if standing.left == race.done and standing.candidate.trial > 0
        ]
        what = "; ".join(left) or "all stay"
        self.say(f"round {race.done} of {len(race.rounds)}, {share(cost)} of a training spent; {what}")
        # Those that have left need no more trainings.
        staying = [
            name for name in race.to_train() if name == race.reference.name or race.standings[name].candidate.trial > 0
        ]
        rest = sum(len(race.rounds.parts(number)) for number in range(race.done, len(race.rounds)))
        self.advance(self._done, self._done + rest * len(staying))


def size_lines(sizes: Sizes, trainings: int) -> list[str]:
    """What a pilot will do and cost, before it starts."""
    lines = [
        f"{plural(len(sizes.candidates), 'candidate')}, up to {plural(trainings, 'training')} each of "
        f"{plural(sizes.steps, 'step')}, tested on {plural(sizes.held_out, 'example')}: at most {share(sizes.most)} of "
        "one full training"
    ]
    if sizes.cut:
        lines.append(f"candidates above layer {sizes.cut - 1} share its cached hidden states")
    if sizes.left_out:
        lines.append(f"no room for {', '.join(sizes.left_out)}: --max-cost allows more")
    return lines


def pilot_plan_lines(plan: dict[str, Any]) -> dict[str, str]:
    """What a pilot would do."""
    return {
        "model": f"{plan['model']}, {plan['layers']} layers",
        "trainings": f"at most {plural(plan['trainings'], 'training')} of {plural(plan['steps'], 'step')} each, tested "
        f"on {plural(plan['held_out'], 'example')} of {plan['examples']:,}",
        "candidates": ", ".join(plan["candidates"]),
        "no room for": ", ".join(plan["left_out"]) or "none",
        "cost": f"at most {share(plan['cost'])} of one full training",
    }


def print_pilot(finished: Finished, job: PilotJob) -> None:
    """The candidates, the answer and what to do next."""
    console = Console(file=sys.stdout)
    result = finished.result
    table = Table(title="Candidates", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name, justify in (("candidate", "left"), ("layers", "right"), ("step", "right"), ("difference", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("interval", justify="right")
    table.add_column("verdict")
    for standing in result.standings:
        look = standing.looks[-1] if standing.looks else None
        table.add_row(
            escape(standing.candidate.name),
            str(len(standing.candidate.layers)),
            share(standing.candidate.cost),
            "" if look is None else f"{look.mean:+.3f}",
            "" if look is None else f"{look.low:+.3f} to {look.high:+.3f}",
            left_in_words(standing.state, standing.left),
            style="bold" if standing.candidate.name == result.answer.chosen else None,
        )
    reference = result.reference
    table.add_row(reference.name, str(len(reference.layers)), share(reference.cost), "", "", "reference")
    console.print(table)
    answer = result.answer
    lines = [
        f"{'answer' if answer.sure else 'not certain'}: {answer.why}",
        f"chosen: {answer.chosen}; cheapest that was not shown to be worse: {answer.cheapest_open or 'none'}",
        f"the pilot cost {share(result.cost)} of one full training; intervals hold together, for all looks, with 95%",
    ]
    folder = shlex.quote(str(finished.folder))
    if answer.chosen != reference.name:
        training = job.training
        lines.append(
            f"train with it: layerselect intent --data {shlex.quote(training.data)} --model "
            f"{shlex.quote(training.model)} --pilot {folder} --out DIR"
        )
    lines.append(f"page: {finished.folder / 'pilot.html'}")
    for line in lines:
        console.print(escape(line), highlight=False, soft_wrap=True)
