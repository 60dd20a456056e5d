"""Tables of a comparison beside what was chosen before its trainings: how good the choice was, and what it cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from layerselect.tasks.compare import read_comparison
from layerselect.tasks.compare.choices import choice_table, choices_of
from layerselect.tasks.compare.rows import measured_rows
from layerselect.tasks.compare.state import saved_config
from layerselect.utils import markdown


def choices_table(place: Path, folder: str, *names: str) -> str:
    """How far rows and placements are behind the best row of a comparison.

    Args:
        place: of the measurements.
        folder: of the comparison, in there.
        names: of rows, or of placements in there.
    """
    comparison = read_comparison(saved_config(place / folder))
    places = {name: place / name for name in names}
    found = choices_of(comparison, [str(file) if file.exists() else name for name, file in places.items()])
    named = [replace(each, name=name) for each, name in zip(found, names, strict=True)]
    return choice_table(named, comparison).markdown()


class Job(NamedTuple):
    """A whole job: trainings of a row, and a pilot before them if the row was chosen by one.

    Attributes:
        row: what was trained.
        quality: its macro-F1.
        took: processor seconds and seconds by the clock, the means over its runs.
        shares: these beside training all layers.
    """

    row: str
    quality: str
    took: tuple[float, float]
    shares: tuple[float, float]


def jobs(place: Path, folder: str, *pilots: str) -> dict[str, Job]:
    """What whole jobs took: trainings of each row, and those of a row that a pilot chose before, the pilot included.

    Args:
        place: of the measurements.
        folder: of the comparison, in there.
        pilots: their folders, in there.
    """
    found = read_comparison(saved_config(place / folder))
    took: dict[str, list[tuple[float, float]]] = {}
    for run in (each for each in found.results if each.reason is None):
        facts = run.training
        processor = facts["processor_seconds_per_step"] * facts["steps"]
        took.setdefault(run.run.variant.name, []).append((processor, facts["wall_seconds"]))
    means = {name: [sum(each) / len(each) for each in zip(*several, strict=True)] for name, several in took.items()}
    quality = {row.name: row.values["macro_f1"].text(3) for row in measured_rows(found) if "macro_f1" in row.values}
    base = means[found.config.reference_variant.name] if found.config.reference_variant else [1.0, 1.0]

    def job(row: str, before: Sequence[float] = (0.0, 0.0)) -> Job:
        processor, clock = (one + other for one, other in zip(means[row], before, strict=True))
        return Job(row, quality[row], (processor, clock), (processor / base[0], clock / base[1]))

    made = {name: job(name) for name in means}
    for name in pilots:
        pilot = json.loads((place / name / "pilot.json").read_text(encoding="utf-8"))
        (choice,) = choices_of(found, [str(place / name)])
        if choice.row is not None:
            own = job(choice.row.name, [pilot["processor_seconds"], pilot["seconds"]])
            made[f"{Path(name).name} (pilot), then {own.row}"] = own
    return made


def jobs_table(place: Path, folder: str, *pilots: str) -> str:
    """The table of :func:`jobs`."""
    heads = ("job", "macro-F1 of the row", "processor s", "of training all", "s by the clock", "of training all")
    lines = [
        [
            name,
            each.quality,
            *(
                cell
                for own, share in zip(each.took, each.shares, strict=True)
                for cell in (f"{own:,.0f}", f"{share:.2f}")
            ),
        ]
        for name, each in jobs(place, folder, *pilots).items()
    ]
    return markdown.table(heads, lines)
