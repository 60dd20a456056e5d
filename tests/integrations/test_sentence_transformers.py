"""sentence-transformers' Trainer, SetFit's, and what these show their callbacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from layerselect import LayerSelectError
from layerselect.integrations.trainer_internals import is_of_training, trained_module
from layerselect.integrations.transformers import SelectorCallback, checkpoint_defect
from torch import nn
from transformers import Trainer

from tests.integrations.trainers import build

TEXTS = ["a b c", "the d e", "one two", "three four"] * 6


def moved(model: nn.Module, start: dict[str, torch.Tensor]) -> set[str]:
    changed = [name for name, p in model.named_parameters() if not torch.equal(p, start[name])]
    return {name.split(".layer.")[1][0] for name in changed if ".layer." in name}


def parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def body(folder: Path) -> Any:
    sentence_transformers = pytest.importorskip(
        "sentence_transformers", reason="sentence-transformers is not installed"
    )
    from sentence_transformers import models

    transformer = models.Transformer(str(folder))
    pooling = models.Pooling(transformer.get_word_embedding_dimension())
    return sentence_transformers.SentenceTransformer(modules=[transformer, pooling], device="cpu")


MODES = pytest.mark.parametrize("mode", ["freeze", "gate"])


@MODES
@pytest.mark.parametrize("loss", ["cosine", "softmax"])
def test_sentence_transformers(tmp_path, bert_folder, mode, loss):
    """The loss has the model in it, and in one case weights of its own, which train in every step."""
    model = body(bert_folder)
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses

    pairs = {"sentence1": TEXTS, "sentence2": TEXTS[::-1]}
    if loss == "cosine":
        data, loss_module = {**pairs, "score": [float(i % 2) for i in range(24)]}, losses.CosineSimilarityLoss(model)
    else:
        data = {**pairs, "label": [i % 2 for i in range(24)]}
        loss_module = losses.SoftmaxLoss(model, model.get_sentence_embedding_dimension(), 2)
    callback = SelectorCallback(rule="fixed:layers=[1]", mode=mode)
    args = SentenceTransformerTrainingArguments(
        str(tmp_path),
        max_steps=4,
        per_device_train_batch_size=4,
        report_to=[],
        use_cpu=True,
        logging_steps=1,
        save_steps=2,
    )
    start, of_loss = parameters(model), parameters(loss_module)
    trainer = SentenceTransformerTrainer(
        model, args, train_dataset=Dataset.from_dict(data), loss=loss_module, callbacks=[callback]
    )
    trainer.train()
    assert callback.selector.steps == 4 and moved(model, start) == {"1"}
    assert all(p.requires_grad for p in model.parameters())
    assert sum("layerselect/num_trained" in row for row in trainer.state.log_history) == 4
    assert checkpoint_defect(tmp_path / "checkpoint-4") is None
    own = [name for name in of_loss if name.startswith("classifier")]
    assert bool(own) == (loss == "softmax")
    assert all(not torch.equal(of_loss[name], dict(loss_module.named_parameters())[name]) for name in own)


@MODES
def test_setfit_selects_among_the_layers_of_the_body(tmp_path, bert_folder, mode):
    pytest.importorskip("setfit", reason="setfit is not installed")
    from setfit import SetFitModel, TrainingArguments
    from setfit import Trainer as SetFitTrainer
    from sklearn.linear_model import LogisticRegression

    model = SetFitModel(model_body=body(bert_folder), model_head=LogisticRegression(), labels=["x", "y"])
    callback = SelectorCallback(rule="fixed:layers=[1]", mode=mode)
    args = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=4,
        batch_size=4,
        num_epochs=1,
        report_to="none",
        logging_steps=1,
        save_steps=2,
        logging_strategy="steps",
        save_strategy="steps",
    )
    data = Dataset.from_dict({"text": TEXTS, "label": [i % 2 for i in range(24)]})
    start = parameters(model.model_body)
    trainer = SetFitTrainer(model=model, args=args, train_dataset=data, callbacks=[callback])
    trainer.train()
    assert callback.selector.steps == 4 and moved(model.model_body, start) == {"1"}
    assert all(p.requires_grad for p in model.model_body.parameters())
    rows = [row for row in trainer.st_trainer.state.log_history if "embedding_loss" in row]
    assert len(rows) == 4 and all(row["layerselect/num_trained"] == 1 for row in rows)
    assert checkpoint_defect(tmp_path / "checkpoint-4") is None


class Holder:
    """What SetFit shows its callbacks as the model."""

    def __init__(self, module: nn.Module) -> None:
        self.model_body = module


class ShowsHolder(Trainer):
    """A Trainer that tells its callbacks what SetFit's tells them, and calls the loss as SetFit does."""

    names_body = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        handler = self.callback_handler

        def call_event(event, args, state, control, **kwargs):
            for callback in handler.callbacks:
                shown = (
                    {"model": Holder(handler.model), "st_model": handler.model}
                    if self.names_body
                    else {"model": object()}
                )
                result = getattr(callback, event)(
                    args,
                    state,
                    control,
                    **shown,
                    optimizer=handler.optimizer,
                    lr_scheduler=handler.lr_scheduler,
                    train_dataloader=handler.train_dataloader,
                    eval_dataloader=handler.eval_dataloader,
                    **kwargs,
                )
                control = result if result is not None else control
            return control

        handler.call_event = call_event

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        super().log(
            {f"embedding_{name}" if name == "loss" else name: value for name, value in logs.items()}, *args, **kwargs
        )


def test_a_trainer_that_shows_something_around_the_module(tmp_path):
    callback = SelectorCallback(rule="topk:k=1", mode="gate")
    trainer = build(tmp_path, callback, kind=ShowsHolder, save_strategy="no")
    trainer.train()
    assert callback.selector.steps == 8
    assert sum("layerselect/num_trained" in row for row in trainer.state.log_history) == 8


def test_a_trainer_that_shows_no_module_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(ShowsHolder, "names_body", False)
    trainer = build(tmp_path, SelectorCallback(mode="gate"), kind=ShowsHolder, save_strategy="no")
    with pytest.raises(LayerSelectError, match="which is no torch module"):
        trainer.train()


def test_the_module_that_trains():
    module, other = nn.Linear(1, 1), nn.Linear(1, 1)
    assert trained_module({"model": module, "st_model": other}) is module
    assert trained_module({"model": Holder(module)}) is module
    assert trained_module({"model": object(), "st_model": other}) is other
    with pytest.raises(LayerSelectError):
        trained_module({"model": None})


@pytest.mark.parametrize(
    ("logs", "of_training"),
    [
        ({"loss": 1.0}, True),
        ({"embedding_loss": 1.0, "learning_rate": 0.1}, True),
        ({"eval_loss": 1.0}, False),
        ({"eval_embedding_loss": 1.0}, False),
        ({"train_loss": 1.0, "train_runtime": 2.0}, False),
        ({"learning_rate": 0.1}, False),
    ],
)
def test_lines_of_the_log(logs, of_training):
    assert is_of_training(logs) == of_training
