"""What is left to do when the training has ended: final scores, the facts of the training, the files of the run."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from ...data import Corpus
from ...report import IntentReport, write_intent_report
from ...selector import FastSelector
from .config import IntentConfig
from .dataset import Splits, label_counts
from .logs import METRICS, TRAINING_LOG, RunLog
from .outputs import COMMAND, HISTORY, IMPORTANCE, PREDICTIONS, RESULTS, RunFolder, importance, prediction_records
from .results import SplitResult
from .training import ClassificationTrainer, probabilities


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
                **{key: output.metrics[f"final_{key}"] for key in ("macro_f1", "macro_auprc", "accuracy", "loss")},
                "final": True,
            },
        )
    return scores


def kept_step(trainer: ClassificationTrainer) -> int:
    """The step of the weights that the trainer's model has now: the best checkpoint's, or the last one."""
    state = trainer.state
    if trainer.args.load_best_model_at_end and state.best_model_checkpoint is not None:
        return int(state.best_model_checkpoint.rpartition("-")[2])
    return state.global_step


def steps_per_epoch(trainer: ClassificationTrainer) -> int:
    return max(1, -(-len(trainer.get_train_dataloader()) // trainer.args.gradient_accumulation_steps))


def training_facts(trainer: ClassificationTrainer, selector: FastSelector, log: RunLog) -> dict[str, Any]:
    """What describes the training: steps, time, how much was trained.

    ``seconds_per_step``, ``processor_seconds_per_step`` and ``saved_mb`` are means over the steps of this process (an
    interrupted run's earlier steps are not in them), ``peak_memory_mb`` is the most that this process held, on the device if it trained on one;
    ``layers_selected``, ``layers_with_gradient`` and ``trained_parameters`` (of selected layers, and outside the layers) are means
    over all steps.
    """
    rows = selector.history.arrays()
    parameters = list(trainer.model.parameters())
    facts = {
        "steps": trainer.state.global_step,
        "kept_step": kept_step(trainer),
        "seconds": round(sum(log.seconds), 3),
        "seconds_per_step": _mean(log.seconds),
        "processor_seconds_per_step": _mean(log.processor_seconds),
        "median_seconds_per_step": round(float(np.median(log.seconds)), 5) if log.seconds else None,
        "num_layers": selector.num_layers,
        "layers_selected": float(rows["mask"].sum(axis=1).mean()) if len(rows["mask"]) else None,
        "layers_with_gradient": float(rows["trained"].sum(axis=1).mean()) if len(rows["trained"]) else None,
        "trained_parameters": _trained_parameters(selector, rows["mask"]),
        "peak_memory_mb": round(_peak_memory(trainer.args.device) / 1e6, 1),
        "mode": selector.mode,
        "backend": selector.backend,
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "parameters": sum(p.numel() for p in parameters),
        "threads": torch.get_num_threads(),
        "device": str(trainer.args.device),
    }
    if trainer.saved_bytes:
        facts["saved_mb"] = round(float(np.mean(trainer.saved_bytes)) / 1e6, 3)
    return facts


def _mean(seconds: Sequence[float]) -> float | None:
    return round(float(np.mean(seconds)), 5) if seconds else None


def _trained_parameters(selector: FastSelector, masks: np.ndarray) -> float | None:
    if not len(masks):
        return None
    in_layers = np.array(selector.layer_sizes)
    outer = sum(p.numel() for p in selector.trainable_parameters()) - int(in_layers.sum())
    return float((masks @ in_layers).mean()) + outer


def _peak_memory(device: torch.device) -> int:
    """Bytes: the peak of the device's allocator, or of the resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


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
    chosen = importance(selector)
    rows = selector.history.arrays()
    folder.write_json(
        "config.json",
        {"command": COMMAND, "settings": config.as_dict(), "corpus": facts, "versions": versions()},
    )
    folder.write_json(IMPORTANCE, chosen)
    folder.write_json(
        RESULTS,
        {"training": dict(training), "splits": {result.split: result.as_dict() for result in results}},
    )
    save_file({name: np.ascontiguousarray(values) for name, values in rows.items()}, folder.path / HISTORY)
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


def versions() -> dict[str, str]:
    """What made the run."""
    names = ("layerselect", "torch", "transformers", "peft", "datasets", "scikit-learn", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # a source tree that was never installed
            found[name] = "not installed"
    return found


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
