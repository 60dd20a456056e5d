"""The files of a finished run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ...data import Corpus
from ...report import ReviseReport, write_revise_report
from ...selector.selector import FastSelector
from ..run.facts import versions
from ..run.folder import METRICS, PREDICTIONS, RESULTS, TRAINING_LOG, RunFolder
from ..text.completions import CompletionSplit
from .config import ReviseConfig
from .examples import RevisionSplits
from .results import SplitResult, prediction_records
from .transfer import Transfer

COMMAND = "layerselect revise"


def write_files(
    folder: RunFolder,
    config: ReviseConfig,
    corpus: Corpus,
    splits: RevisionSplits,
    parts: Sequence[CompletionSplit],
    written: Mapping[str, Sequence[str]],
    results: Sequence[SplitResult],
    training: Mapping[str, Any],
    transfer: Transfer | None,
    selector: FastSelector,
) -> None:
    """Writes every file of the run that training has not written already.

    Args:
        parts: the examples that were revised, by split.
        written: what the trained model wrote for them, by the split's name.
    """
    facts = _corpus_facts(corpus, splits, chooses=config.keep == "best" or config.patience is not None)
    chosen, rows = folder.write_selection(selector)
    transfer = transfer.as_dict() if transfer else None
    records = [record for part in parts for record in prediction_records(part, written[part.name])]
    folder.write_json(
        "config.json",
        {"command": COMMAND, "settings": config.as_dict(), "corpus": facts, "versions": versions()},
    )
    folder.write_json(
        RESULTS,
        {
            "training": dict(training),
            "transfer": transfer,
            "splits": {result.split: result.as_dict() for result in results},
        },
    )
    folder.write_lines(PREDICTIONS, records)
    write_revise_report(
        folder.path / "report.html",
        ReviseReport(
            settings=config.as_dict(),
            corpus=facts,
            training=dict(training),
            versions=versions(),
            splits={result.split: dict(result.reports) for result in results},
            predictions=records,
            metrics=folder.read_lines(METRICS),
            losses=folder.read_lines(TRAINING_LOG),
            layer_names=chosen["layer_names"],
            frequency=chosen["frequency"],
            history=rows,
            transfer=transfer,
        ),
    )


def _corpus_facts(corpus: Corpus, splits: RevisionSplits, *, chooses: bool) -> dict[str, Any]:
    return {
        "name": corpus.name,
        "fingerprint": corpus.fingerprint,
        "labels": corpus.labels,
        "multi_label": corpus.multi_label,
        "chosen_by": splits.watch.name if splits.watch and chooses else None,
        "splits": {split.name: _split_facts(split, splits) for split in (splits.train, *splits.report)},
        "notes": list(corpus.notes),
        "defects": [str(defect) for defect in corpus.defects[:20]],
        "defect_count": len(corpus.defects),
    }


def _split_facts(split: CompletionSplit, splits: RevisionSplits) -> dict[str, Any]:
    sentences, kept = splits.sentences[split.name]
    return {
        "examples": len(split),
        "documents": len({row["doc_id"] for row in split.rows}),
        "cut": sum(row["cut"] for row in split.rows),
        "sentences": sentences,
        "kept_sentences": kept,
        "intentions": dict(Counter(label for row in split.rows for label in row["intentions"])),
    }
