"""A finished comparison whose runs nobody trained: their predictions are drawn, everything else is as it is kept."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from layerselect.tasks.compare import CompareConfig, RunFiles
from layerselect.tasks.compare.kept import KeptRuns
from layerselect.tasks.compare.state import open_folder

LABELS = ("clarity", "fluency", "style")


def corpus_file(path: Path, *, documents: int = 60, rows: int = 2) -> Path:
    """A table of small revisions whose label is seen in the added word most of the time."""
    random = np.random.default_rng(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["before", "after", "label", "doc_id"])
        for number in range(documents * rows):
            label = LABELS[random.integers(3)]
            word = label if random.random() < 0.6 else LABELS[random.integers(3)]
            writer.writerow([f"text number {number}", f"text number {number} {word}", label, f"d{number // rows}"])
    return path


def make(
    folder: Path,
    corpus: Path,
    *,
    skills: dict[str, float],
    unfinished: tuple[str, ...] = (),
    costs: Mapping[str, float] | None = None,
    **changes: Any,
) -> CompareConfig:
    """Keeps a comparison in ``folder``.

    Args:
        skills: for each row the share of examples that it answers rightly.
        unfinished: names of runs that are left out.
        costs: more facts of the trainings, a tenth larger for each seed.
        changes: fields of the configuration.
    """
    changes = {"folds": 3, "seeds": 2, **changes}
    base = {"data": str(corpus), "model": "m", "device": "cpu"}
    config = CompareConfig(out=str(folder), base=base, methods=tuple(skills), bootstrap=200, **changes)
    open_folder(folder, config, overwrite=False)
    kept, corpora = KeptRuns(folder, config.kind), {}
    for run in config.runs():
        if run.name in unfinished:
            continue
        settings = config.common_settings(run.fold)
        if run.fold not in corpora:
            corpora[run.fold] = settings.load_corpus()
        skill = skills.get(run.variant.name, skills.get(run.variant.method.name, 0.5))
        random = np.random.default_rng((run.seed, run.fold or 0, round(skill * 1000)))
        predictions = [_prediction(row, random, skill) for row in corpora[run.fold].splits["test"]]
        report = {"macro_f1": skill, "macro_auprc": skill, "accuracy": skill}
        idle = {"macro_f1": 0.1, "macro_auprc": 0.3, "accuracy": 0.4}
        files = RunFiles(
            run,
            training={
                "steps": 100,
                "seconds_per_step": 0.5,
                "device": "cpu",
                "stages": {"training": 50.0},
                **{name: value * (1 + 0.1 * run.seed) for name, value in (costs or {}).items()},
            },
            reports={"test": {"majority class": idle, "logistic regression": idle, "trained model": report}},
            metrics=[
                {"step": 50, "macro_f1": skill / 2},
                {"step": 100, "macro_f1": skill},
                {"final": True, "step": 100},
            ],
            predictions={"test": predictions},
        )
        kept.keep(files, settings, corpora[run.fold])
    return config


def _prediction(row: Any, random: np.random.Generator, skill: float) -> dict[str, Any]:
    (label,) = row["intentions"]
    answer = label if random.random() < skill else LABELS[random.integers(3)]
    scores = {name: 0.8 if name == answer else 0.1 for name in LABELS}
    return {"id": row["id"], "split": "test", "labels": [label], "predicted": [answer], "scores": scores}
