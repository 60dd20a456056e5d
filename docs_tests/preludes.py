"""What blocks of the pages take for granted: a model folder, a loader, a corpus of one's own. Small and random.

Each function is given the namespace of its page; the working directory is the page's folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

LABELS = 5


def threads(names: dict[str, Any]) -> None:
    """One thread: the models are too small to gain from more."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)


def model_folder(names: dict[str, Any]) -> None:
    """A small BERT with a tokenizer in ``path/to/model``, and ``texts``, ``labels``."""
    from layerselect.data import load_corpus
    from layerselect.models.demo import build_demo_classifier

    threads(names)
    corpus = load_corpus("demo")
    rows = list(corpus.splits["train"])[:64]
    made = build_demo_classifier([f"{row['before']} {row['after']}" for row in rows], corpus.labels, multi_label=False)
    made.model.save_pretrained("path/to/model")
    made.tokenizer.save_pretrained("path/to/model")
    names["texts"] = [row["after"] for row in rows]
    names["labels"] = [corpus.labels.index(row["intentions"][0]) for row in rows]


def llama_configuration(names: dict[str, Any]) -> None:
    """``config.json`` of a small Llama, without weights."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    Path("config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 500, **sizes}))


def training_program(names: dict[str, Any]) -> None:
    """``finetune.py``: a program of its own that trains a small model with a Trainer."""
    Path("finetune.py").write_text(
        """
import argparse, torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=3)
steps = parser.parse_args().steps
sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
model = BertForSequenceClassification(BertConfig(vocab_size=50, **sizes))
rows = [{"input_ids": torch.randint(0, 50, (6,)), "labels": torch.tensor(i % 2)} for i in range(8)]
arguments = TrainingArguments("finetuned", max_steps=steps, use_cpu=True, report_to="none", save_strategy="no")
Trainer(model, arguments, train_dataset=rows).train()
"""
    )


def loader(names: dict[str, Any]) -> None:
    """A model folder, and ``loader``: batches of token ids, mask and labels."""
    import torch
    from transformers import AutoTokenizer

    model_folder(names)
    tokenizer = AutoTokenizer.from_pretrained("path/to/model")
    batches = []
    for start in range(0, 48, 8):
        part = slice(start, start + 8)
        encoded = tokenizer(names["texts"][part], padding=True, truncation=True, max_length=32, return_tensors="pt")
        batches.append({**encoded, "labels": torch.tensor(names["labels"][part])})
    names["loader"] = batches


def lora_model(names: dict[str, Any]) -> None:
    """``model`` with LoRA on every layer, and ``loader``."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    loader(names)
    made = AutoModelForSequenceClassification.from_pretrained("path/to/model", num_labels=LABELS)
    names["model"] = get_peft_model(made, LoraConfig(r=4, target_modules="all-linear", task_type="SEQ_CLS"))


def decoder(names: dict[str, Any]) -> None:
    """``model``, a small Llama of eight layers, and ``loader`` of sequences whose second half repeats the first."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    threads(names)
    names["model"] = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=8,
            num_attention_heads=2,
            num_key_value_heads=2,
            vocab_size=32,
        )
    )
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(0, 32, (6, 8, 8), generator=generator)
    tokens = torch.cat([first, first], dim=2)
    names["loader"] = [{"input_ids": batch, "labels": batch.clone()} for batch in tokens]


def lora_decoder(names: dict[str, Any]) -> None:
    """The same with LoRA: nothing below the layers trains, so a budget can be met."""
    from peft import LoraConfig, get_peft_model

    decoder(names)
    names["model"] = get_peft_model(names["model"], LoraConfig(r=4, target_modules="all-linear"))


def lightning_module(names: dict[str, Any]) -> None:
    """``module``, a Lightning module around a small Llama, and ``loader``."""
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")
    import torch
    from torch.utils.data import DataLoader

    decoder(names)
    names["loader"] = DataLoader(names["loader"], batch_size=None)  # a list would be one of loaders

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = names["model"]

        def training_step(self, batch: dict[str, Any], index: int) -> Any:
            return self.model(**batch).loss

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    names["module"] = Module()


def sentence_pairs(names: dict[str, Any]) -> None:
    """``encoder``, a small sentence encoder, and ``pairs`` of sentences."""
    kind = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    from datasets import Dataset
    from sentence_transformers import models

    model_folder(names)
    words = models.Transformer("path/to/model", max_seq_length=32)
    pooling = models.Pooling(words.get_word_embedding_dimension())
    names["encoder"] = kind.SentenceTransformer(modules=[words, pooling], device="cpu")
    names["pairs"] = Dataset.from_dict({"anchor": names["texts"][:32], "positive": names["texts"][32:]})


def setfit_model(names: dict[str, Any]) -> None:
    """``setfit_model``, and ``examples`` with labels."""
    setfit = pytest.importorskip("setfit", reason="setfit is not installed")
    from datasets import Dataset
    from sklearn.linear_model import LogisticRegression

    sentence_pairs(names)
    names["setfit_model"] = setfit.SetFitModel(model_body=names["encoder"], model_head=LogisticRegression())
    names["examples"] = Dataset.from_dict({"text": names["texts"][:16], "label": names["labels"][:16]})


def dataset(names: dict[str, Any]) -> None:
    """``train_data``: what a Trainer takes, for the model of ``path/to/model``."""
    from transformers import AutoTokenizer

    model_folder(names)
    tokenizer = AutoTokenizer.from_pretrained("path/to/model")
    encoded = tokenizer(names["texts"], padding="max_length", truncation=True, max_length=32)
    names["train_data"] = [
        {"input_ids": ids, "attention_mask": mask, "labels": label}
        for ids, mask, label in zip(encoded["input_ids"], encoded["attention_mask"], names["labels"], strict=True)
    ]
    names["tokenizer"] = tokenizer


def own_corpus(names: dict[str, Any]) -> None:
    """Files as a user has them: ``my.csv``, ``new.jsonl``, ``draft.txt``."""
    import csv

    from layerselect.data import load_corpus

    corpus = load_corpus("demo")
    rows = [row for split in corpus.splits.values() for row in split]
    with open("my.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["old", "new", "why", "text"])
        writer.writerows([row["before"], row["after"], row["intentions"][0], row["doc_id"]] for row in rows)
    new = [{"before": row["before"], "after": row["after"]} for row in rows[:5]]
    Path("new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in new), encoding="utf-8")
    Path("draft.txt").write_text("He go home. The bakers buys flour.\n", encoding="utf-8")


def index_page(names: dict[str, Any]) -> None:
    """What the first page's loop begins with."""
    import torch
    from layerselect import FastSelector

    lora_model(names)
    names.update(torch=torch, FastSelector=FastSelector)


def trainer_arguments(names: dict[str, Any]) -> None:
    """What a script with a Trainer has before the callback comes."""
    from transformers import Trainer, TrainingArguments

    dataset(names)
    names.update(Trainer=Trainer, args=TrainingArguments(output_dir="run", max_steps=2, report_to="none"))
