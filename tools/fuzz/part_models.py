"""Folders of models that nobody meant: a file of a small model broken, gone or of another kind, and texts that
tokenizers do not expect.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from families.small import save
from layerselect.models.adapters import AdapterConfig, add_adapter
from layerselect.models.load import LoadedModel, load_causal_lm, load_classifier, quiet_transformers
from layerselect.models.reading import read_tokens
from layerselect.models.vocabulary import cover_tokens

from .mutate import ODD_TEXTS, break_text
from .part_saved import broken, copy_with

#: A decoder, an encoder whose positions are counted from behind the padding, an encoder-decoder, and one without
#: attention.
FAMILIES = ("llama", "roberta", "bart", "mamba")
LABELS = ("clarity", "fluency", "style")
_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 4096\n"
_INSTEAD = (None, b"", b"{}", b"[]", b"null", b"\0" * 64, _POINTER, b"<!DOCTYPE html><html>not found</html>")
#: Numbers of a configuration that others rely on.
_SIZES = (0, 1, 2, 3, -1, 7, 10**6, 2**31, 1.5, "32", None, [], True)


def cases(rng: random.Random) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Without end: one broken folder, or one odd text, a case."""
    warnings.simplefilter("ignore")
    quiet_transformers()
    whole = {}
    for family in FAMILIES:
        folder = Path(f"right {family}").resolve()
        save(family, folder)
        whole[family] = folder
    place = Path("broken").resolve()
    while True:
        family = rng.choice(FAMILIES)
        right = whole[family]
        writes = family in ("llama", "mamba") and rng.random() < 0.5
        if rng.random() < 0.15:
            text = break_text("The plan is old.", rng)
            second = rng.choice((None, "", *ODD_TEXTS))
            yield (
                f"{family}, a text",
                lambda right=right, text=text, second=second, writes=writes: read_text(right, text, second, writes),
            )
            continue
        file = rng.choice([path for path in sorted(right.rglob("*")) if path.is_file()])
        way, content = _other(file, rng)

        def run(right: Path = right, file: Path = file, content: bytes | None = content, writes: bool = writes) -> Any:
            copy_with(right, place, file, content)
            return load_and_run(place, writes)

        yield f"{family}: {file.name}, {way}", run


def load_and_run(folder: Path, writes: bool) -> Any:
    """Loads the model with an adapter and runs it on a text, as far as a run does before it trains."""
    loaded = _load(folder, writes)
    tokens = read_tokens(loaded.tokenizer, "The plan is old.", return_tensors="pt")
    cover_tokens(loaded.model, loaded.tokenizer, tokens["input_ids"].tolist(), str(folder))
    model = add_adapter(loaded, AdapterConfig())
    with torch.no_grad():
        return model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits.shape


def read_text(folder: Path, text: str, second: str | None, writes: bool) -> Any:
    """Reads a text, or a pair, with the tokenizer of a right folder."""
    loaded = _load(folder, writes)
    return len(read_tokens(loaded.tokenizer, text, second, truncation=True, max_length=64)["input_ids"])


def _load(folder: Path, writes: bool) -> LoadedModel:
    return load_causal_lm(folder) if writes else load_classifier(folder, LABELS, multi_label=False)


def _other(file: Path, rng: random.Random) -> tuple[str, bytes | None]:
    """How, and the new content; ``None``: the file is gone."""
    chance = rng.random()
    if chance < 0.15:
        return "something else", rng.choice(_INSTEAD)
    if chance < 0.5 and file.name == "config.json":
        values = json.loads(file.read_bytes())
        name = rng.choice([name for name, value in values.items() if isinstance(value, int)])
        return f"{name} is another number", json.dumps({**values, name: rng.choice(_SIZES)}).encode()
    return broken(file, rng)
