"""A corpus of revisions that is easy to tell apart, and tiny classifiers with random weights saved as folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tests.helpers.models import _DECODER

LABELS = ["clarity", "fluency", "style"]
_SUBJECTS = ("The baker", "A sailor", "My sister", "The old clock", "Every child", "The river", "Our train", "A fox")
_VERBS = ("watches", "follows", "remembers", "finds", "carries", "leaves")
_OBJECTS = ("the market", "a lantern", "the harbour", "some letters", "the bridge", "a garden")


def revisions(documents: int = 12, rows: int = 6) -> list[dict[str, Any]]:
    """``documents x rows`` labelled revisions: a removed "really", a mended "teh", an "!" made a full stop."""
    found = []
    for document in range(documents):
        for row in range(rows):
            number = document * rows + row
            subject, verb = _SUBJECTS[number % 8], _VERBS[(number // 3) % 6]
            text = f"{subject} {verb} {_OBJECTS[(number // 5) % 6]} in the evening ."
            label = LABELS[row % 3]
            before = {
                "clarity": text.replace(" in ", " really in ", 1),
                "fluency": text.replace(" the evening", " teh evening"),
                "style": text.replace(" .", " !"),
            }[label]
            found.append(
                {"id": f"r{number}", "doc_id": f"d{document}", "before": before, "after": text, "intentions": [label]}
            )
    return found


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def corpus_file(folder: Path, **kwargs: Any) -> Path:
    """The corpus as a JSON Lines file."""
    return write_jsonl(folder / "revisions.jsonl", revisions(**kwargs))


def tokenizer() -> Any:
    """Whole words of the corpus; every other character by itself."""
    from layerselect.models.demo import _train_tokenizer
    from layerselect.tasks.text.formats import InputFormat

    forms = [InputFormat(name) for name in ("edits", "plain")]
    texts = [form.write(row, LABELS)[0] for row in revisions() for form in forms]
    return _train_tokenizer(texts, max_length=256)


def save_bert(folder: Path, *, layers: int = 3, trained_pooler: bool = False, seed: int = 0) -> Path:
    """An encoder without a classification head; its pooler's bias is zero unless ``trained_pooler``."""
    from transformers import BertConfig, BertModel

    words = tokenizer()
    torch.manual_seed(seed)
    model = BertModel(
        BertConfig(
            vocab_size=len(words),
            hidden_size=32,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=256,
            pad_token_id=words.pad_token_id,
        )
    )
    if trained_pooler:
        torch.nn.init.normal_(model.pooler.dense.bias, std=0.1)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_llama(folder: Path, seed: int = 0, *, layers: int = 3) -> Path:
    """A decoder whose tokenizer has no padding token and puts nothing between the parts of a pair."""
    from tokenizers import processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = tokenizer()
    inner = words.backend_tokenizer
    inner.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    plain = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", bos_token="[CLS]", eos_token="[SEP]")
    torch.manual_seed(seed)
    settings = {**_DECODER, "vocab_size": len(plain), "num_hidden_layers": layers, "pad_token_id": None}
    LlamaForCausalLM(LlamaConfig(**settings)).save_pretrained(folder)
    plain.save_pretrained(folder)
    return folder
