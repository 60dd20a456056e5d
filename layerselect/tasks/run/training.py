"""What the trainings of all tasks share: a measured Trainer, its arguments, and the selector's options."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import EarlyStoppingCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import EvalLoopOutput

from ...errors import LayerSelectError
from ...layers.find import split_parameters
from ...placement.rule import PlacementRule
from ...rules import NoLayers, make_rule
from ...state_cache import StateStore
from ...utils.launch import launched
from ...utils.saved_activations import SavedActivations
from .by_length import LongestFirst, put_back
from .cache_keys import CacheReader
from .checkpoints import SaveSteps, WholeCheckpoints
from .folder import CHECKPOINTS
from .settings import TrainingSettings
from .sharded import fsdp_arguments
from .shared_batches import SharedCollator, SimilarLengths, WithStandIns, part_of_mean
from .stages import EVALUATION, WRITING, Stages

#: In the folder of a run: what ``--report-to tensorboard`` writes.
TENSORBOARD = "tensorboard"


class MeasuredTrainer(WholeCheckpoints):
    """A Trainer that batches examples of similar length and can count what its forward passes keep.

    Args:
        measure_memory: fill :attr:`saved_bytes`.
        reader: gives the model the keys of cached hidden states; ``None`` without a cache.

    Attributes:
        stages: told when evaluations and checkpoints interrupt the training.
        saved_bytes: for each training forward pass, the bytes that autograd kept for its backward pass.
    """

    def __init__(
        self, *args: Any, measure_memory: bool = False, reader: CacheReader | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._measure_memory, self._reader = measure_memory, reader
        self.saved_bytes: list[int] = []
        self._order: SimilarLengths | None = None
        self.stages = Stages()
        # The loss of our tasks is a mean over the batch; the Trainer divides it by the accumulation steps.
        self.model_accepts_loss_kwargs = False
        if self.args.world_size > 1:
            # What is dropped of an example in one process says nothing of another's.
            torch.manual_seed(self.args.seed + self.args.process_index)
        # Progress is the caller's to show.
        self.remove_callback(PrinterCallback)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
                # Beside the checkpoints, which go at the end.
                callback.logging_dir = str(Path(self.args.output_dir).parent / TENSORBOARD)

    @contextmanager
    def counted(self, model: nn.Module) -> Iterator[None]:
        """Counts what the forward passes in the block keep, if the model trains."""
        if not (self._measure_memory and model.training):
            yield
            return
        with SavedActivations([*model.parameters(), *model.buffers()]) as saved:
            yield
        self.saved_bytes.append(saved.bytes)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], *args: Any, **kwargs: Any) -> Any:
        read = epoch_iterator if self._reader is None else self._reader.training(epoch_iterator)
        return super().get_batch_samples(read, *args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        if self._reader is not None:
            self._reader.trained()
        return loss

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = super()._prepare_inputs(inputs)
        return inputs if self._reader is None else self._reader.given(inputs)

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        loader = super().get_eval_dataloader(*args, **kwargs)
        return loader if self._reader is None else self._reader.evaluating(loader)

    def get_test_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        loader = super().get_test_dataloader(*args, **kwargs)
        return loader if self._reader is None else self._reader.evaluating(loader)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with self.stages.within(EVALUATION):
            return super().evaluate(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with self.stages.within(WRITING):
            super()._save_checkpoint(*args, **kwargs)

    def loss_on(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        """The loss of a batch as the collator made it, under the precision of the training."""
        with self.compute_loss_context_manager():
            return self.compute_loss(model, self._prepare_inputs(batch))

    def get_train_dataloader(self) -> DataLoader:
        if self.args.world_size == 1:
            return super().get_train_dataloader()
        ours = self.train_dataset, self.data_collator
        self.train_dataset, self.data_collator = WithStandIns(ours[0]), SharedCollator(ours[1])
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset, self.data_collator = ours

    def joint(self, loss: Tensor, weight: Tensor, counts: Tensor | None) -> Tensor:
        """The loss of this process's part of a batch, so that its mean over the processes is the loss of the batch.

        Args:
            loss: a mean over the examples of this process.
            weight: of these in that mean.
            counts: what the batch has as :data:`~layerselect.tasks.run.shared_batches.COUNTS`; ``None`` where the batch
                is no part of another one.
        """
        return loss if counts is None else loss * part_of_mean(weight, counts)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        if hasattr(eval_dataset, "lengths"):
            return LongestFirst(eval_dataset.lengths)
        return super()._get_eval_sampler(eval_dataset)

    def evaluation_loop(self, dataloader: DataLoader, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As the Trainer's, for batches of similar lengths; what it returns is in the order of the examples."""
        output = super().evaluation_loop(dataloader, *args, **kwargs)
        lengths = getattr(dataloader.dataset, "lengths", None)
        if lengths is None:
            return output
        found, labels = put_back(output.predictions, lengths), put_back(output.label_ids, lengths)
        return output._replace(predictions=found, label_ids=labels)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        data = train_dataset if train_dataset is not None else self.train_dataset
        if hasattr(data, "lengths"):
            processes = self.args.world_size
            size = self.args.train_batch_size * processes
            self._order = SimilarLengths(data.lengths, size, seed=self.args.seed, filled=processes > 1)
            return self._order
        return super()._get_train_sampler(train_dataset)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self._order is not None:
            # The Trainer's own call does not reach it in several processes where an epoch is continued in its middle.
            self._order.set_epoch(kwargs["epoch"])
        super()._run_epoch(*args, **kwargs)


def training_arguments(
    settings: TrainingSettings, folder: Path, *, examples: int, evaluates: bool, metric: str, greater_is_better: bool
) -> TrainingArguments:
    """The Trainer's arguments that a run's settings ask for.

    Args:
        folder: the unfinished run; checkpoints go into its ``checkpoints``.
        examples: of the training split.
        evaluates: there is a split to evaluate while training.
        metric: of the evaluations, what the best checkpoint is best at.
    """
    keep_best = evaluates and settings.keep == "best"
    when = "epoch" if settings.eval_steps is None else "steps"
    total = settings.steps(examples)
    return TrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        num_train_epochs=settings.epochs,
        max_steps=total,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulate,
        learning_rate=settings.lr,
        lr_scheduler_type=settings.schedule if settings.schedule != "constant" else "constant_with_warmup",
        warmup_steps=warmup_steps(settings, total),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip,
        eval_strategy=when if evaluates else "no",
        eval_steps=settings.eval_steps,
        # The best checkpoint can only be kept if every evaluated one is saved.
        save_strategy=when if keep_best else "epoch",
        save_steps=settings.eval_steps or 500,
        save_total_limit=None,  # WholeCheckpoints removes what is not needed
        # How long early stopping has been patient.
        restore_callback_states_from_checkpoint=True,
        load_best_model_at_end=keep_best,
        metric_for_best_model=metric if evaluates else None,
        greater_is_better=greater_is_better if evaluates else None,
        logging_steps=max(1, total // 100),
        # A loss that is not a number must be seen, not smoothed over.
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        use_cpu=settings.holding().device == "cpu",
        # Parts of a model may be left out of a step: frozen layers, unused heads, experts. Reentrant checkpointing
        # cannot be searched for them.
        ddp_find_unused_parameters=settings.gradient_checkpointing != "reentrant" if launched() > 1 else None,
        seed=settings.seed,
        data_seed=settings.seed,
        **settings.trainer_arguments(settings.holding().device),
        **fsdp_arguments(settings),
        fp16=settings.scales_loss(),
    )


def warmup_steps(settings: TrainingSettings, total: int) -> int:
    """The steps in which the learning rate rises."""
    return round(settings.lr_warmup * total) if settings.lr_warmup_steps is None else settings.lr_warmup_steps


def own_callbacks(settings: TrainingSettings, *others: Any) -> list[Any]:
    """The callbacks of a run: saves between the planned ones, the caller's, early stopping."""
    stopping = [EarlyStoppingCallback(settings.patience)] if settings.patience is not None else []
    return [SaveSteps(settings.save_steps), *others, *stopping]


def selector_options(settings: TrainingSettings, store: StateStore | None = None) -> dict[str, Any]:
    """The arguments of ``FastSelector`` that a run's settings ask for; ``rule`` is a new rule.

    Args:
        store: of the hidden states, if any are kept.
    """
    names = ("mode", "score", "interval", "warmup", "probe_every", "backend", "seed", "state_cache", "cut", "budget")
    options = {name: getattr(settings, name) for name in names}
    return {"rule": make_rule(settings.rule, seed=settings.seed), "state_cache_store": store, **options}


def check_training(model: nn.Module, settings: TrainingSettings, *, evaluates: bool) -> None:
    """Finds out before the training begins whether it can be what the settings ask for.

    Raises:
        LayerSelectError: a choice among checkpoints is asked for and no split is there to choose by, or nothing would
            train.
    """
    if not evaluates and settings.patience is not None:
        raise LayerSelectError(
            "--patience needs a split to watch: the corpus has no validation split, so add --holdout 0.1"
        )
    rule = make_rule(settings.rule, seed=settings.seed)
    trains_none = isinstance(rule, NoLayers) or (isinstance(rule, PlacementRule) and not rule.trains_layers)
    if trains_none and not split_parameters(model).outer:
        raise LayerSelectError(
            f"--rule {settings.rule} trains only what is new outside the layers, and here nothing is (a model that "
            "writes gets no new head): choose another rule"
        )
