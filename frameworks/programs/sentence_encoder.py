"""``SentenceTransformerTrainer``, or SetFit's trainer, with the callback: ``sentence_encoder
sentence-transformers|setfit``.
"""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from layerselect.integrations.transformers import SelectorCallback

from ..tiny import folder, rows


def encoder() -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    words = Transformer(folder("bert"), max_seq_length=64)
    return SentenceTransformer(modules=[words, Pooling(64)], device="cpu")


def main(name: str, *, mode: str) -> None:
    callback = SelectorCallback(rule="topk:k=2", mode=mode, probe_every=3)
    if name == "setfit":
        _setfit(callback)
        return
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    model = encoder()
    pairs = Dataset.from_list([{"anchor": row["sentence1"], "positive": row["sentence2"]} for row in rows("pairs")])
    args = SentenceTransformerTrainingArguments(
        output_dir="out",
        max_steps=6,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        dataloader_pin_memory=False,
    )
    loss = MultipleNegativesRankingLoss(model)
    SentenceTransformerTrainer(model=model, args=args, train_dataset=pairs, loss=loss, callbacks=[callback]).train()


def _setfit(callback: SelectorCallback) -> None:
    from setfit import SetFitModel, Trainer, TrainingArguments
    from sklearn.linear_model import LogisticRegression

    model = SetFitModel(model_body=encoder(), model_head=LogisticRegression(), labels=[0, 1])
    data = Dataset.from_list([{"text": row["sentence1"], "label": row["label"]} for row in rows("pairs", 16)])
    args = TrainingArguments(
        output_dir="out",
        batch_size=4,
        max_steps=6,
        body_learning_rate=1e-3,
        report_to="none",
        show_progress_bar=False,
        save_strategy="no",
    )
    Trainer(model=model, args=args, train_dataset=data, callbacks=[callback]).train()
