"""What is left to do when the training has ended: final scores, the facts of the training, the files of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...data import Corpus
from ...report import IntentReport, write_intent_report
from ...selector.selector import FastSelector
from ..run.facts import kept_step, steps_per_epoch, versions
from ..run.folder import METRICS, PREDICTIONS, RESULTS, TRAINING_LOG, RunFolder
from .config import IntentConfig
from .dataset import Splits, label_counts
from .outputs import prediction_records
from .results import SplitResult
from .training import EVALUATED, ClassificationTrainer, probabilities

COMMAND = "layerselect intent"


def final_scores(
    trainer: ClassificationTrainer, splits: Splits, folder: RunFolder, *, multi_label: bool
) -> dict[str, np.ndarray]:
    """The kept checkpoint's probabilities ``[n, C]`` on every reported split; adds its lines to ``metrics.jsonl``."""
    scores: dict[str, np.ndarray] = {}
    kept = kept_step(trainer)
    for split in splits.report:
        output = trainer.predict(split, metric_key_prefix="final")
        scores[split.name] = probabilities(output.predictions, multi_label=multi_label)
        folder.append_line(
            METRICS,
            {
                "split": split.name,
                "step": kept,
                "epoch": kept / steps_per_epoch(trainer),
                **{key: output.metrics[f"final_{key}"] for key in EVALUATED},
                "final": True,
            },
        )
    return scores


def write_files(
    folder: RunFolder,
    config: IntentConfig,
    corpus: Corpus,
    splits: Splits,
    scores: Mapping[str, np.ndarray],
    results: Sequence[SplitResult],
    training: Mapping[str, Any],
    selector: FastSelector,
) -> None:
    """Writes every file of the run that training has not written already."""
    facts = _corpus_facts(corpus, splits, chooses=config.keep == "best" or config.patience is not None)
    chosen, rows = folder.write_selection(selector)
    folder.write_json(
        "config.json",
        {"command": COMMAND, "settings": config.as_dict(), "corpus": facts, "versions": versions()},
    )
    folder.write_json(
        RESULTS,
        {"training": dict(training), "splits": {result.split: result.as_dict() for result in results}},
    )
    folder.write_lines(
        PREDICTIONS,
        (
            record
            for split in splits.report
            for record in prediction_records(
                split.name, split.rows, scores[split.name], corpus.labels, multi_label=corpus.multi_label
            )
        ),
    )
    write_intent_report(
        folder.path / "report.html",
        IntentReport(
            settings=config.as_dict(),
            corpus=facts,
            training=dict(training),
            versions=versions(),
            labels=corpus.labels,
            multi_label=corpus.multi_label,
            splits={result.split: dict(result.reports) for result in results},
            metrics=folder.read_lines(METRICS),
            losses=folder.read_lines(TRAINING_LOG),
            layer_names=chosen["layer_names"],
            frequency=chosen["frequency"],
            history=rows,
        ),
    )


def _corpus_facts(corpus: Corpus, splits: Splits, *, chooses: bool) -> dict[str, Any]:
    by_name = {split.name: split for split in (splits.train, splits.probe, *splits.report) if split is not None}
    return {
        "name": corpus.name,
        "fingerprint": corpus.fingerprint,
        "labels": corpus.labels,
        "multi_label": corpus.multi_label,
        "chosen_by": splits.select.name if splits.select and chooses else None,
        "splits": {
            name: {
                "examples": len(split),
                "documents": len({row["doc_id"] for row in split.rows}),
                "labels": dict(zip(corpus.labels, label_counts(split, len(corpus.labels)).tolist(), strict=True)),
            }
            for name, split in by_name.items()
        },
        "notes": list(corpus.notes),
        "defects": [str(defect) for defect in corpus.defects[:20]],
        "defect_count": len(corpus.defects),
    }
