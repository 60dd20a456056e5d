"""The short trainings of a pilot: one model, set back before each of them, trained as ``layerselect intent`` trains."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...costs.counted import LayerCosts
from ...data import Corpus
from ...data.splits import fold_places
from ...errors import LayerSelectError
from ...layers.find import split_parameters
from ...models.demo import SOURCE as DEMO
from ...models.demo import hold
from ...models.load import LoadedModel
from ...placement.candidates import ALL, Candidate
from ...placement.race import Trial
from ...selector.savings import counted_costs
from ...selector.selector import FastSelector
from ..compare.counts import IntentCounts, Truth, in_parts
from ..intent.config import IntentConfig
from ..intent.dataset import EncodedSplit, Splits, build_splits, make_targets
from ..intent.model import cover, prepare
from ..intent.training import ClassificationTrainer, build_trainer, cached_lengths, check_selection, probabilities
from ..intent.word_scores import given_offset
from ..run.baselines import MajorityBaseline
from ..run.model import trainable
from ..run.state_cache import RunCache
from ..text.rows import evaluated_part
from ..text.verbalizer import Verbalizer
from .names import Scouted
from .settings import LOSS, MADE

logger = logging.getLogger(__name__)

#: The name of what has learned nothing, which every pilot tests the reference against.
IDLE = "most frequent class"
#: What a pilot makes itself is as it is where nobody says anything, and the last step is kept.
_SHORT: dict[str, Any] = {
    **{each.name: each.default for each in fields(IntentConfig) if each.name in MADE},
    "keep": "last",
}
#: Under the scratch folder.
_STATES, _RUN = "states", "run"
_COUNTS = IntentCounts()


class Bench:
    """A corpus and a model on which candidates are trained for a few steps.

    Args:
        config: of the training that the pilot is for.
        corpus: its corpus, of which only the training split is used.
        folds: in so many parts its documents are held out in turn.
        by: ``macro_f1`` or ``loss``.
        scratch: a folder for what lives no longer than the pilot.

    Attributes:
        layer_names: of the model.
        costs: of its layers, counted.
        has_head: something outside the layers trains.
        examples: of the training split.
        caches: whether hidden states of the model can be cached, in a training that learns a head.

    Raises:
        LayerSelectError: something in the corpus, the model or the settings cannot be used.
    """

    def __init__(self, config: IntentConfig, corpus: Corpus, *, folds: int, by: str, scratch: Path) -> None:
        self._config = replace(config, **_SHORT, out=str(scratch / _RUN))
        self._corpus, self._by, self._scratch, self._folds = corpus, by, scratch, folds
        self._loaded: LoadedModel
        self._words: Verbalizer | None
        self._model: nn.Module
        self._splits: Splits
        # What training starts from, by the seed that drew it.
        self._starts: dict[int, dict[str, torch.Tensor]] = {}
        self._build(config.seed)
        found = split_parameters(self._model)
        self.layer_names: list[str] = found.names
        self.has_head = bool(found.outer)
        self.costs: LayerCosts = counted_costs(self._model)
        self.examples = len(self._splits.train)
        self.caches = len(found.names) > 1 and self._words is None and self._can_cache(config.seed)
        self._dealt = self._deal()
        self._held_out = cache(self._splits_of)  # the same ones for every candidate

    def _can_cache(self, seed: int) -> bool:
        """Whether the layers below a cut can be cached. What holds of the lowest cut holds of all."""
        try:
            self._check(self._settings(seed, 1, rule="all", cut=1))
        except LayerSelectError as error:
            logger.info("no hidden states are cached in this pilot: %s", error)
            return False
        return True

    def scout(self, steps: int) -> Scouted:
        """A first short training of what IR-Tuning's rule selects, in which all layers are measured in every step."""
        config = self._settings(self._config.seed, steps, rule="variance", probe_every=1)
        with RunCache(config, []) as nothing:
            _, selector = self._fitted(config, replace(self._splits, select=None, report=[]), nothing)
        rows = selector.history.arrays()
        return Scouted(rows["mask"].sum(axis=0).tolist(), np.nanmean(rows["scores"], axis=0).tolist())

    def train(self, candidate: Candidate, seed: int, fold: int, *, steps: int, held_out: int, cut: int) -> Trial:
        """Trains a candidate for some steps and tests it.

        Args:
            seed: added to the one of the settings; it draws the batches and what is new in the model.
            fold: which part of the documents is held out, from 0.
            held_out: so many of its examples are tested, the same ones for every candidate.
            cut: the layers below are cached; 0: none are.
        """
        splits = self._held_out(fold, held_out)
        if candidate.name == IDLE:
            return self._idle(splits)
        return self._trained(
            self._settings(self._config.seed + seed, steps, rule=rule_of(candidate), cut=cut if self.caches else 0),
            splits,
        )

    def _settings(
        self, seed: int, steps: int, *, rule: str, cut: int = 0, probe_every: int | None = None
    ) -> IntentConfig:
        changes: dict[str, Any] = {"seed": seed, "max_steps": steps, "rule": rule}
        if probe_every is not None:
            changes["probe_every"] = probe_every
        if cut:
            store = str(self._scratch / _STATES)
            changes |= {"state_cache": "cached", "cut": str(cut), "state_cache_store": store}
        return replace(self._config, **changes)

    def _fitted(
        self, config: IntentConfig, splits: Splits, state_cache: RunCache
    ) -> tuple[ClassificationTrainer, FastSelector]:
        """Trains the model from where its seed starts, and keeps nothing on the disk."""
        self._set_back(config.seed)
        folder = self._scratch / _RUN
        shutil.rmtree(folder, ignore_errors=True)
        trainer, callback = build_trainer(
            self._model,
            self._loaded.tokenizer,
            splits,
            self._corpus.labels,
            config,
            folder,
            multi_label=self._corpus.multi_label,
            callbacks=[],
            state_cache=state_cache,
            words=self._words,
        )
        trainer.args.save_strategy = "no"
        trainer.train()
        assert callback.selector is not None
        return trainer, callback.selector

    def _trained(self, config: IntentConfig, splits: Splits) -> Trial:
        held = splits.report[0]
        with RunCache(config, cached_lengths(splits, writes=self._words is not None)) as state_cache:
            trainer, selector = self._fitted(config, splits, state_cache)
            with state_cache.reading(self._model, selector):
                found: Any = trainer.predict(held).predictions
        logits, losses, _ = found
        if not np.isfinite(losses).all():
            raise LayerSelectError(
                f"a short training with --rule {config.rule} ended with a loss that is not a number: lower --lr"
            )
        if self._by == LOSS:
            return _by_document(held, np.stack([-losses.astype(np.float64), np.ones(len(losses))], axis=1))
        return self._counted(held, probabilities(logits, multi_label=self._corpus.multi_label))

    def _idle(self, splits: Splits) -> Trial:
        """What answers the most frequent class, or each class as often as it is there."""
        held, labels = splits.report[0], self._corpus.labels
        targets = make_targets(splits.train.rows, labels, self._corpus.multi_label)
        baseline = MajorityBaseline(targets, len(labels), multi_label=self._corpus.multi_label)
        scores, predicted = baseline.predict(held.rows)
        if self._by == LOSS:
            losses = _log_losses(held.targets, scores[0])
            return _by_document(held, np.stack([-losses, np.ones(len(losses))], axis=1))
        return self._counted(held, predicted.astype(np.float64) if self._corpus.multi_label else scores)

    def _counted(self, held: EncodedSplit, scores: np.ndarray) -> Trial:
        labels = self._corpus.labels
        known = held.targets if held.targets.ndim == 2 else np.eye(len(labels))[held.targets]
        ids, documents = ([str(row[key]) for row in held.rows] for key in ("id", "doc_id"))
        truth = Truth(ids, documents, known.astype(bool), labels, self._corpus.multi_label)
        return _by_document(held, _COUNTS.counts(in_parts(scores), truth))

    def _splits_of(self, fold: int, held_out: int) -> Splits:
        train, test = self._dealt[fold]
        whole = self._splits.train
        held = evaluated_part(whole.subset(test, name="held out"), held_out, self._config.split_seed)
        # The scores that examples begin with are drawn anew, without the documents that are held out.
        return given_offset(Splits(whole.subset(train), None, [held]), self._config, self._corpus)[0]

    def _deal(self) -> list[tuple[list[int], list[int]]]:
        """For each fold the numbers of the examples that train and of those that are held out."""
        rows = self._splits.train.rows
        documents, intentions = [row["doc_id"] for row in rows], [row["intentions"] for row in rows]
        return fold_places(documents, intentions, self._folds, seed=self._config.split_seed)

    def _set_back(self, seed: int) -> None:
        """The model as it is before a training with this seed."""
        if seed not in self._starts:
            self._build(seed)
            return
        start = self._starts[seed]
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                parameter.grad = None
                if name in start:
                    parameter.copy_(start[name])

    def _check(self, config: IntentConfig) -> None:
        """Raises LayerSelectError where the model cannot be trained so."""
        multi_label = self._corpus.multi_label
        check_selection(self._model, self._loaded, self._splits, self._words, config, multi_label=multi_label)

    def _build(self, seed: int) -> None:
        """A model with what a run with this seed starts from."""
        config = replace(self._config, seed=seed)
        first = not self._starts
        self._loaded, self._words, encoder = prepare(config, self._corpus)
        if first:
            splits = build_splits(self._corpus, encoder, holdout=config.holdout, seed=config.split_seed)
            self._splits, _ = given_offset(splits, config, self._corpus)
        cover(self._loaded, self._words, self._splits)
        if config.model == DEMO:
            hold(self._loaded, config.holding())
        self._model = trainable(self._loaded, config)
        if first:
            self._check(config)
        if config.model == DEMO:  # of which all is drawn, what never trains, too
            self._starts.clear()
        trained = ((name, p) for name, p in self._model.named_parameters() if p.requires_grad)
        self._starts[seed] = {name: p.detach().to("cpu", copy=True) for name, p in trained}


def rule_of(candidate: Candidate) -> str:
    """The rule that trains a candidate."""
    if candidate.name == ALL:
        return "all"
    if not candidate.layers:
        return "none"
    return f"fixed:layers={list(candidate.layers)}"


def _by_document(held: EncodedSplit, counts: np.ndarray) -> Trial:
    names = [str(row["doc_id"]) for row in held.rows]
    documents = list(dict.fromkeys(names))
    place: Mapping[str, int] = {name: number for number, name in enumerate(documents)}
    summed = np.zeros((len(documents), counts.shape[1]))
    np.add.at(summed, [place[name] for name in names], counts)
    return Trial(tuple(documents), summed)


def _log_losses(targets: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """float64 ``[n]``: the losses of answering every example with the same probabilities."""
    known = np.clip(shares, 1e-6, 1 - 1e-6)
    if targets.ndim == 1:
        found: np.ndarray = -np.log(known[targets])
        return found
    found = -(targets * np.log(known) + (1 - targets) * np.log(1 - known)).mean(axis=1)
    return found
