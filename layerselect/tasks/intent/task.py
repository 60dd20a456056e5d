"""One run of the intention task: a corpus, a model that learns what revisions are for, and how well it has learned
it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ...data import Corpus
from ...integrations.transformers import SelectorCallback
from ...models.adapter_files import ADAPTER, BASE
from ...models.demo import SOURCE as DEMO
from ...models.demo import hold
from ...models.model_card import Usage
from ...models.saved_adapter import base_reference
from ...report import IntentReport, write_intent_report
from ...transfer import base_fingerprint
from ...utils.saved_files import read_json
from ...utils.saved_schema import Fields, Mapped
from ..run.baselines import TextRegression, WordBaseline
from ..run.facts import kept_step, steps_per_epoch
from ..run.folder import METRICS, RESULTS, RunFolder
from ..run.importance_split import reserve_importance_split
from ..run.log import RunLog
from ..run.model import trainable
from ..run.runner import run_task
from ..run.stages import BASELINES, Stages
from ..run.state_cache import RunCache
from ..run.task import OnEvent, Outcome, RunResult, Task, Trained
from ..text.rows import evaluated_part
from .blending import BLEND, CHOSEN, THRESHOLDS, best_thresholds, best_weight, can_blend
from .config import AUTO, NONE, IntentConfig
from .dataset import EncodedSplit, Splits, build_splits, label_counts
from .model import cover, prepare
from .outputs import prediction_records
from .predict import save_adapter
from .results import ALONE, MODEL, SPLIT, SplitResult, split_results
from .training import (
    EVALUATED,
    ClassificationTrainer,
    build_trainer,
    cached_lengths,
    check_selection,
    evaluated,
    probabilities,
)
from .usage import usage_of
from .word_scores import WordScores, given_offset


def run_intent(
    config: IntentConfig, *, resume: bool = False, overwrite: bool = False, on_event: OnEvent | None = None
) -> RunResult:
    """Fine-tunes a model to predict revision intentions (IR-Tuning) and writes the run's folder.

    Args:
        resume: continue the interrupted run at ``config.out``, if there is one. A run that was killed at any moment
            ends as if it had not been, bit for bit; one that is finished is read and returned.
        overwrite: replace an earlier run at ``config.out``.
        on_event: told of steps, losses and evaluations as they come (see ``RunLog``).

    Raises:
        LayerSelectError: whatever in the corpus, the model, the options or the place cannot be used. Nothing is then at
            ``config.out`` that was not there before.
    """
    return run_task(IntentTask, config, resume=resume, overwrite=overwrite, on_event=on_event)


class IntentTask(Task[IntentConfig]):
    """Intention prediction; see :class:`~layerselect.tasks.run.task.Task`."""

    command = "layerselect intent"
    evaluated = EVALUATED
    scoring = BASELINES

    def __init__(self, config: IntentConfig, corpus: Corpus, notify: OnEvent) -> None:
        super().__init__(config, corpus, notify)
        self._loaded, self._words, self._encoder = prepare(config, corpus)
        # The baselines are the same whatever the rule holds out.
        self._whole = self._limited(build_splits(corpus, self._encoder, holdout=config.holdout, seed=config.split_seed))
        cover(self._loaded, self._words, self._whole)
        self._whole, self._baseline = given_offset(self._whole, config, corpus)
        self._word_scores: WordScores | None = None
        if self._baseline is not None:
            self._word_scores = WordScores.of(self._baseline, multi_label=corpus.multi_label)
        self._partner: TextRegression | None = None
        train, importance = reserve_importance_split(self._whole.train, config)
        self._splits = replace(self._whole, train=train, importance=importance)
        # An adapter of the demo's model is of use only beside the model, which stands nowhere else.
        self._base = copy.deepcopy(self._loaded.model) if config.model == DEMO and config.adapter != "none" else None
        if config.model == DEMO:
            hold(self._loaded, config.holding())
        self.fingerprint = base_fingerprint(self._loaded.model, self._loaded.layer_names)
        self._model = trainable(self._loaded, config)
        self.config = check_selection(
            self._model, self._loaded, self._splits, self._words, config, multi_label=corpus.multi_label
        )
        self._scores: dict[str, dict[str, np.ndarray]] = {}  # by the row of the table and the split

    @classmethod
    def finished(cls, folder: Path) -> RunResult:
        kind = Fields({"training": Mapped(), "splits": Mapped(SPLIT)})
        saved = read_json(folder / RESULTS, kind, advice="train again with --overwrite")
        splits = [SplitResult.from_dict(name, values) for name, values in saved["splits"].items()]
        return RunResult(folder, splits, saved["training"])

    @property
    def watched(self) -> str | None:
        return self._splits.select.name if self._splits.select else None

    @property
    def model(self) -> nn.Module:
        return self._model

    @property
    def sizes(self) -> dict[str, int]:
        splits = (self._splits.train, self._splits.importance, *self._splits.report)
        return {split.name: len(split) for split in splits if split is not None}

    def begin(self, folder: RunFolder, stages: Stages) -> None:
        if self._base is not None and folder.writes:
            self._base.save_pretrained(folder.path / ADAPTER / BASE)
            self._loaded.tokenizer.save_pretrained(folder.path / ADAPTER / BASE)

    def cached_lengths(self) -> list[int]:
        return cached_lengths(self._splits, writes=self._words is not None)

    def trainer(
        self, folder: Path, log: RunLog, state_cache: RunCache
    ) -> tuple[ClassificationTrainer, SelectorCallback]:
        return build_trainer(
            self._model,
            self._loaded.tokenizer,
            self._splits,
            self.corpus.labels,
            self.config,
            folder,
            multi_label=self.corpus.multi_label,
            callbacks=[log],
            state_cache=state_cache,
            words=self._words,
        )

    def evaluate(self, trained: Trained) -> dict[str, Any]:
        """Fills in the probabilities ``[n, C]`` of every reported split, and adds its lines to ``metrics.jsonl``.

        Returns:
            Where the answers are blends, how much the model weighs in them, and the thresholds of several labels.
        """
        trainer, kept = trained.trainer, kept_step(trained.trainer)
        with trained.state_cache.reading(trainer.model, trained.selector):
            outputs = {split.name: trainer.predict(split, metric_key_prefix="final") for split in self._splits.report}
        logits = {name: output.predictions[0] for name, output in outputs.items()}
        blended, facts = self._blended(logits)
        for split in self._splits.report:
            output, name = outputs[split.name], split.name
            values = {key: output.metrics[f"final_{key}"] for key in EVALUATED}
            if name in blended:
                values = evaluated(blended[name], output, self.corpus.labels, multi_label=self.corpus.multi_label)
            line = {"split": name, "step": kept, "epoch": kept / steps_per_epoch(trainer)}
            trained.folder.append_line(METRICS, {**line, **values, "final": True})
        rows = {ALONE: logits, MODEL: blended} if blended else {MODEL: logits}
        multi_label = self.corpus.multi_label
        self._scores = {
            row: {name: probabilities(each, multi_label=multi_label) for name, each in several.items()}
            for row, several in rows.items()
        }
        return facts

    def _blended(self, logits: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The logits of the answers, of every reported split, where they are blends; and the facts of :meth:`evaluate`.

        Args:
            logits: of the model alone.
        """
        weight, chosen_on = self.config.blend, self._splits.select
        if not can_blend(self.config) or weight == NONE or (weight == AUTO and chosen_on is None):
            return {}, {}
        train, multi_label = self._whole.train, self.corpus.multi_label
        partner = TextRegression(train.described, train.targets, len(self.corpus.labels), multi_label=multi_label)
        words = WordScores.of(partner, multi_label=multi_label)
        own = {split.name: words(split.described) for split in self._splits.report}
        if chosen_on is not None and weight == AUTO:
            weight = best_weight(words, logits[chosen_on.name], own[chosen_on.name], chosen_on.targets)
        if weight == 1:
            return {}, {}
        answers = replace(words, blend=float(weight))
        facts: dict[str, Any] = {BLEND: answers.blend, CHOSEN: self.config.blend == AUTO}
        if chosen_on is not None and multi_label:
            name = chosen_on.name
            found = best_thresholds(answers.joined(logits[name], own[name]), train.targets.mean(axis=0))
            answers = replace(answers, thresholds=found)
            facts[THRESHOLDS] = dict(zip(self.corpus.labels, found.round(4).tolist(), strict=True))
        self._partner, self._word_scores = partner, answers
        return {name: answers.joined(logits[name], own[name]) for name in logits}, facts

    def _regressions(self) -> list[WordBaseline]:
        """The second baseline and, where the answers are blends, what has a part in them."""
        train, multi_label = self._whole.train, self.corpus.multi_label
        if self._baseline is None:
            self._baseline = WordBaseline(
                train.described, train.targets, len(self.corpus.labels), multi_label=multi_label
            )
        return [self._baseline, *([self._partner] if self._partner is not None else [])]

    def save_adapter(self, path: Path) -> None:
        save_adapter(
            path,
            self._model,
            self._encoder,
            base_model=base_reference(self.config.model),
            kind=self.config.adapter,
            multi_label=self.corpus.multi_label,
            fingerprint=self.fingerprint,
            answers=self._words.answers if self._words else None,
            word_scores=self._word_scores,
        )

    def usage(self) -> Usage:
        return usage_of(
            self._encoder,
            kind=self.config.adapter,
            base_model=base_reference(self.config.model),
            multi_label=self.corpus.multi_label,
            words=self._words,
            word_scores=self._word_scores is not None,
        )

    def outcome(self) -> Outcome:
        labels, multi_label = self.corpus.labels, self.corpus.multi_label
        splits = (self._splits.train, self._splits.importance, *self._splits.report)
        return Outcome(
            results=split_results(self._whole, self._scores, self._regressions(), labels, multi_label=multi_label),
            splits={split.name: self._split_facts(split) for split in splits if split is not None},
            predictions=[
                record
                for split in self._splits.report
                for record in prediction_records(
                    split.name, split.rows, self._scores[MODEL][split.name], labels, multi_label=multi_label
                )
            ],
            page={"labels": labels, "multi_label": multi_label},
        )

    def write_report(self, path: Path, **facts: Any) -> None:
        write_intent_report(path, IntentReport(**facts))

    def _limited(self, splits: Splits) -> Splits:
        """The splits with as many examples to evaluate as the run asks for."""
        limit, seed = self.config.eval_limit, self.config.split_seed
        report = {split.name: evaluated_part(split, limit, seed) for split in splits.report}
        select = report[splits.select.name] if splits.select else None
        return replace(splits, report=list(report.values()), select=select)

    def _split_facts(self, split: EncodedSplit) -> Mapping[str, Any]:
        labels = self.corpus.labels
        return {
            "examples": len(split),
            "documents": len({row["doc_id"] for row in split.rows}),
            "labels": dict(zip(labels, label_counts(split, len(labels)).tolist(), strict=True)),
        }
