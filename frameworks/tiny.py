"""Small models with tokenizers and small data sets, made on the spot: nothing is downloaded."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = 4
WIDTH = 64
VOCABULARY = 400
TEXTS = (
    "The old bridge keeps a small plan in the evening.",
    "A student moves every letter with great care.",
    "Rain fell on the quiet town before the market opened.",
    "Two cooks wrote a longer list of better words.",
)
#: Where models and data sets lie that programs read by path.
CACHE = Path(__file__).resolve().parents[1] / ".frameworks" / "made"


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, WIDTH)
        self.down = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.down(torch.relu(self.up(self.norm(hidden))))


class Plain(nn.Module):
    """A stack of blocks with an embedding in front and a head behind, in plain PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden)


def tokens_of(step: int, rows: int = 8, columns: int = 6) -> Tensor:
    return torch.randint(5, VOCABULARY, (rows, columns), generator=torch.Generator().manual_seed(step))


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """The loss of telling each next token."""
    return nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(-1, 1).flatten())


def llama_config() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        max_position_embeddings=512,
    )


def llama() -> Any:
    """A small causal language model."""
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM(llama_config())


def bert(labels: int = 2) -> Any:
    """A small classifier."""
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(
            hidden_size=WIDTH,
            intermediate_size=96,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            vocab_size=VOCABULARY,
            max_position_embeddings=512,
            num_labels=labels,
        )
    )


@cache
def tokenizer(kind: str) -> Any:
    """A byte-level tokenizer for ``"llama"`` (with a chat template) or ``"bert"``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>"] if kind == "llama" else ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    if kind == "llama":
        names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    else:
        ends = [("[CLS]", 2), ("[SEP]", 3)]
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
        )
        names = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    finished = PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=256, **names)
    if kind == "llama":
        finished.chat_template = (
            "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + eos_token }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
        )
    return finished


def folder(kind: str) -> str:
    """A folder with a model and its tokenizer: ``"llama"``, ``"bert"`` (a classifier) or ``"llama-reward"``."""
    place = CACHE / kind
    if not place.exists():
        torch.manual_seed(0)
        if kind == "llama-reward":
            from transformers import LlamaForSequenceClassification

            config = llama_config()
            config.num_labels = 1
            model = LlamaForSequenceClassification(config)
        else:
            model = {"llama": llama, "bert": bert}[kind]()
        with _made(place) as part:
            model.save_pretrained(part)
            tokenizer(kind.split("-")[0]).save_pretrained(part)
    return str(place)


@contextmanager
def _made(place: Path) -> Iterator[Path]:
    """A folder that stands in ``place`` when all of it is there; of several processes that make one, one wins."""
    part = place.with_name(f"{place.name}.part{os.getpid()}")
    part.mkdir(parents=True)
    yield part
    try:
        part.rename(place)
    except OSError:  # another was faster
        shutil.rmtree(part)


def _sentence(row: int) -> str:
    words = TEXTS[row % len(TEXTS)].split()
    return " ".join(words[row % 3 :] + words[: row % 3])


def rows(kind: str, count: int = 48) -> list[dict[str, Any]]:
    """Rows of a data set: ``text``, ``chat``, ``prompt``, ``preference``, ``unpaired``, ``pairs`` (MRPC's columns) or
    ``scored`` (STSb's).
    """
    made: list[dict[str, Any]] = []
    for row in range(count):
        one, other = _sentence(row), _sentence(row + 1)
        user, answer = {"role": "user", "content": one}, {"role": "assistant", "content": other}
        worse = {"role": "assistant", "content": "No."}
        made.append(
            {
                "text": {"text": f"{one} {other}"},
                "chat": {"messages": [user, answer]},
                "prompt": {"prompt": [user]},
                "preference": {"chosen": [user, answer], "rejected": [user, worse]},
                "unpaired": {"prompt": [user], "completion": [worse if row % 2 else answer], "label": row % 2 == 0},
                "pairs": {"sentence1": one, "sentence2": other, "label": row % 2, "idx": row},
                "scored": {"sentence1": one, "sentence2": other, "score": row % 5 / 4},
            }[kind]
        )
    return made


def dataset(kind: str, count: int = 48) -> Any:
    from datasets import Dataset

    return Dataset.from_list(rows(kind, count))


def data_folder(kind: str) -> str:
    """A folder with ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl``, which ``load_dataset(FOLDER)`` reads; of
    1,200 rows where the kind ends with ``-long``, and with names in ``.json`` where it ends with ``-json``.
    """
    place = CACHE / "data" / kind
    if not place.exists():
        with _made(place) as part:
            for split in ("train", "validation", "test"):
                count = 1200 if kind.endswith("-long") else 48
                made = rows(kind.partition("-")[0], count if split == "train" else 16)
                lines = [json.dumps(row) for row in made]
                part.joinpath(f"{split}.{'json' if kind.endswith('-json') else 'jsonl'}").write_text(
                    "\n".join(lines) + "\n"
                )
    return str(place)
