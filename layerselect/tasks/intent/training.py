"""Fine-tunes a model through ``transformers.Trainer`` with the selector as a callback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import EvalPrediction, TrainerCallback
from transformers.trainer_utils import PredictionOutput

from ...integrations.transformers import SelectorCallback
from ...metrics import classification_report
from ...models.holding import on_device
from ...models.load import LoadedModel
from ..run.cache_keys import keyed
from ..run.folder import HISTORY_ROWS
from ..run.importance_split import give_ablation
from ..run.shared_batches import COUNTS
from ..run.state_cache import RunCache
from ..run.training import MeasuredTrainer, check_training, own_callbacks, selector_options, training_arguments
from ..run.trial import try_passes
from ..run.tried_selector import try_selector
from ..text.verbalizer import Verbalizer
from .config import IntentConfig
from .dataset import Collator, Splits, label_counts
from .heads import ClassifierHead, Head, LabelWordHead

#: Of an evaluation while training, what goes into ``metrics.jsonl``.
EVALUATED = ("macro_f1", "macro_auprc", "accuracy", "loss")


class ClassificationTrainer(MeasuredTrainer):
    """A Trainer whose loss and predictions are those of a head: a classification head, or verbalizer words.

    Args:
        head: what is asked of the model.
    """

    def __init__(self, *args: Any, head: Head, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head = head

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Tensor:
        labels, asked = inputs["labels"], _asked(inputs)
        with self.counted(model):
            loss = self._head.loss(model, asked, labels)
        return self.joint(loss, self._head.weights(labels).sum(), inputs.get(COUNTS))

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[None, tuple[Tensor, Tensor, Tensor], Tensor]:
        # Only the logits: encoder-decoders also return hidden states of every length. The losses by example, whose
        # mean does not depend on how they fall into batches and processes.
        inputs = self._prepare_inputs(inputs)
        labels = inputs["labels"]
        with torch.no_grad():
            losses, logits = self._head.evaluate(model, _asked(inputs), labels)
        return None, (logits, losses, self._head.weights(labels)), labels


def _asked(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What of a batch the model is given."""
    return {name: value for name, value in inputs.items() if name not in ("labels", COUNTS)}


def build_trainer(
    model: nn.Module,
    tokenizer: Any,
    splits: Splits,
    labels: list[str],
    config: IntentConfig,
    folder: Path,
    *,
    multi_label: bool,
    callbacks: list[TrainerCallback],
    state_cache: RunCache,
    words: Verbalizer | None = None,
) -> tuple[ClassificationTrainer, SelectorCallback]:
    """The Trainer of one run, and the callback that holds its selector.

    Args:
        folder: the unfinished run; checkpoints go into its ``checkpoints``.
        callbacks: of the caller (progress, logs).
        state_cache: what the run keeps.
        words: what the model is to write; ``None`` where it has a classification head.
    """
    arguments = training_arguments(
        config,
        folder,
        examples=len(splits.train),
        evaluates=splits.select is not None,
        metric="macro_f1",
        greater_is_better=True,
    )
    counts = label_counts(splits.train, len(labels))
    options = selector_options(config, state_cache.store)
    collator = keyed(Collator(tokenizer, words), model, config, completes=words is not None)
    options["history"] = folder / HISTORY_ROWS
    selector = state_cache.selector = SelectorCallback(options)
    trainer = ClassificationTrainer(
        model,
        arguments,
        head=make_head(config.class_weights, counts, len(splits.train), words, multi_label=multi_label),
        measure_memory=config.measure_memory,
        reader=state_cache.reader,
        train_dataset=splits.train,
        eval_dataset=splits.select,
        data_collator=collator,
        compute_metrics=_metrics(labels, multi_label=multi_label),
        callbacks=own_callbacks(config, selector, state_cache, *callbacks),
    )
    give_ablation(options["rule"], trainer, splits.importance, collator, config.batch_size, state_cache)
    return trainer, selector


def check_selection(
    model: nn.Module,
    loaded: LoadedModel,
    splits: Splits,
    words: Verbalizer | None,
    config: IntentConfig,
    *,
    multi_label: bool,
) -> IntentConfig:
    """Finds out before the training begins whether its options fit the model and the corpus.

    Args:
        model: ``loaded.model``, ready to train.

    Returns:
        The settings, with what they left to the model.

    Raises:
        LayerSelectError: the model cannot be trained on the corpus or evaluated, the rule or another option of the
            selector does not fit the model, or a choice among checkpoints is asked for and no split is there to choose
            by, or nothing would train, or hidden states are to be kept and cannot.
    """
    check_training(model, config, evaluates=splits.select is not None)
    head = LabelWordHead(words) if words else ClassifierHead(multi_label=multi_label)
    collate = Collator(loaded.tokenizer, words)

    def batch_of(examples: list[dict[str, Any]]) -> tuple[dict[str, Tensor], Tensor]:
        batch = on_device(collate(examples), loaded.model)
        return {name: value for name, value in batch.items() if name != "labels"}, batch["labels"]

    every = [split[i] for split in (splits.train, *splits.report) for i in range(len(split))]
    try_passes(
        model,
        loaded.source,
        [len(example["input_ids"]) for example in every],
        train=lambda numbers: head.loss(model, *batch_of([every[i] for i in numbers])),
        evaluate=lambda numbers: head.evaluate(model, *batch_of([every[i] for i in numbers])),
    )

    def look(number: int) -> None:
        size = len(splits.train)
        with torch.no_grad():
            head.loss(model, *batch_of([splits.train[i % size] for i in range(2 * number, 2 * number + min(2, size))]))

    return try_selector(model, config, look)


def cached_lengths(splits: Splits, *, writes: bool) -> list[int]:
    """The lengths of the examples whose hidden states a run keeps, if it keeps any.

    Args:
        writes: the model writes verbalizer words. Then an evaluation remembers what the layers made of the prompt, for
            which all have to run, and only the loss is computed from cached states.
    """
    once = [splits.train, splits.importance, *(() if writes else splits.report)]
    return [length for split in once if split is not None for length in split.lengths]


def make_head(kind: str, counts: np.ndarray, examples: int, words: Verbalizer | None, *, multi_label: bool) -> Head:
    """What is asked of the model: a classification head or verbalizer words, with the class weights that ``kind``
    names.
    """
    if words is None:
        weights = class_weights(kind, counts, examples, multi_label=multi_label)
        return ClassifierHead(multi_label=multi_label, class_weights=weights)
    # A set of labels is one answer, so classes are weighed as where there is one label.
    return LabelWordHead(words, class_weights=class_weights(kind, counts, examples, multi_label=False))


def class_weights(kind: str, counts: np.ndarray, examples: int, *, multi_label: bool) -> Tensor | None:
    """Weights of the loss that make rare classes count more, float32 ``[C]``, or ``None``.

    One label: in proportion to ``1 / n_c`` (``balanced``) or its square root (``sqrt``), with mean 1 over the training
    examples, so that the learning rate keeps its meaning. Several labels: of the positive examples,
    ``(n - n_c) / n_c`` or its square root. A class without examples weighs 1.
    """
    if kind == "none":
        return None
    power = 1.0 if kind == "balanced" else 0.5
    seen = counts > 0
    weights = np.ones(len(counts))
    if multi_label:
        weights[seen] = (np.maximum(examples - counts[seen], 1) / counts[seen]) ** power
    else:
        weights[seen] = (examples / counts[seen]) ** power
        weights[seen] *= counts.sum() / (weights * counts).sum()
    return torch.tensor(weights, dtype=torch.float32)


def probabilities(logits: np.ndarray, *, multi_label: bool) -> np.ndarray:
    """Softmax over the classes, or a sigmoid for each label; float64 ``[n, C]``."""
    tensor = torch.as_tensor(np.asarray(logits, dtype=np.float64))
    return (torch.sigmoid(tensor) if multi_label else torch.softmax(tensor, dim=-1)).numpy()


def evaluated(
    logits: np.ndarray, output: PredictionOutput, labels: list[str], *, multi_label: bool
) -> dict[str, float]:
    """An evaluation as :data:`EVALUATED` has it, of other logits ``[n, C]`` than the model's own.

    Args:
        output: of the Trainer, which has the targets, and what each example weighs.
    """
    targets, found = torch.as_tensor(output.label_ids), torch.as_tensor(logits)
    if multi_label:
        losses = functional.binary_cross_entropy_with_logits(found, targets.to(found.dtype), reduction="none").mean(1)
    else:
        losses = functional.cross_entropy(found, targets, reduction="none")
    predictions = (logits, losses.numpy(), output.predictions[2])
    values = _metrics(labels, multi_label=multi_label)(EvalPrediction(predictions, output.label_ids))
    return {key: values[key] for key in EVALUATED}


def _metrics(labels: list[str], *, multi_label: bool) -> Callable[[EvalPrediction], dict[str, float]]:
    def compute(prediction: EvalPrediction) -> dict[str, float]:
        logits, losses, weights = prediction.predictions
        scores = probabilities(logits, multi_label=multi_label)
        report = classification_report(prediction.label_ids, scores, labels, multi_label=multi_label)
        return {**report.summary(), "loss": float(np.average(losses.astype(np.float64), weights=weights))}

    return compute
