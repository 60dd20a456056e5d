"""The demo's model: a small encoder or decoder and its tokenizer, made on the spot from the texts it will be trained
on.
"""

from __future__ import annotations

import copy
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils import SAFE_WEIGHTS_NAME

from .fresh import in_full_precision
from .holding import Holding, check_holding
from .load import LoadedModel, loading_arguments, placed_as_asked, prepare
from .traits import keep_traits, traits_of

SOURCE = "demo"
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
_MAX_WORDS = 4000
#: The classifier spells words that a smaller share of the texts has. What is rare in training says nothing, and a word
#: that was not in training is then read as these are: by its pieces.
_RARE = 0.01
#: So many pieces, of at most so many letters, spell rare words.
_PIECES, _LONGEST = 300, 4
#: Positions that the demo's decoder has for the label's words, besides those of the prompt.
_ANSWER = 32


def build_demo_classifier(
    texts: Sequence[str], labels: Sequence[str], *, multi_label: bool, max_length: int = 128, dropout: float = 0.0
) -> LoadedModel:
    """A six-layer encoder of half a million weights with random values (seed the global generator first).

    Args:
        texts: what the tokenizer learns its vocabulary from; the training split as the model will read it.
    """
    tokenizer = _train_tokenizer(texts, max_length, rare=_RARE)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=192,
        max_position_embeddings=max(max_length, 16),
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        problem_type="multi_label_classification" if multi_label else "single_label_classification",
    )
    model = BertForSequenceClassification(config)
    return prepare(model, tokenizer, SOURCE, [name for name, _ in model.named_parameters()])


def build_demo_causal_lm(
    texts: Sequence[str], labels: Sequence[str], *, max_length: int = 128, dropout: float = 0.0
) -> LoadedModel:
    """A six-layer decoder of a comparable size, likewise with random values, that learns to write the labels.

    Args:
        texts: the prompts of the training split.
    """
    tokenizer = _train_tokenizer([*texts, *labels, *labels], max_length)  # twice: a word seen once is spelled
    # A prompt is not closed: the label follows.
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A", pair="$A $B:1", special_tokens=[]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        eos_token="[SEP]",
        model_max_length=max_length + _ANSWER,
        model_input_names=["input_ids", "attention_mask"],
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=192,
        max_position_embeddings=max_length + _ANSWER,
        attention_dropout=dropout,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    return prepare(model, tokenizer, SOURCE, [name for name, _ in model.named_parameters()], writes=True)


def hold(loaded: LoadedModel, holding: Holding) -> None:
    """Holds a model that was made on the spot as another one would be loaded.

    Raises:
        LayerSelectError: the machine cannot hold it so.
    """
    if holding == Holding():
        return
    check_holding(holding)
    old = loaded.model
    with tempfile.TemporaryDirectory() as folder:
        # Of several processes each needs the files; transformers would write those of the first one.
        old.config.save_pretrained(folder)
        if old.can_generate():
            old.generation_config.save_pretrained(folder)
        save_model(old, str(Path(folder, SAFE_WEIGHTS_NAME)), metadata={"format": "pt"})
        arguments = loading_arguments(_Same(type(old)), old.config, holding)
        model = type(old).from_pretrained(folder, config=copy.deepcopy(old.config), **arguments)
    loaded.model = placed_as_asked(model, holding, loaded.source).eval()
    in_full_precision(loaded.model, loaded.fresh)
    keep_traits(loaded.model, traits_of(old))


class _Same:
    """Makes models of one class, as the Auto classes do."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind

    def from_config(self, config: Any) -> Any:
        return self._kind(copy.deepcopy(config))


def _train_tokenizer(texts: Sequence[str], max_length: int, rare: float = 0.0) -> PreTrainedTokenizerFast:
    # Case is kept: a capital may be all that a revision changes.
    splitter = pre_tokenizers.BertPreTokenizer()
    words = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(text))
    # The trainers of `tokenizers` break ties by hash order and give another vocabulary in every process, so
    # the vocabulary is made here: the words seen twice, and every character to spell the others with.
    characters = sorted({character for word in words for character in word})
    least = max(2, round(rare * len(texts)))
    frequent = sorted((word for word, count in words.items() if count >= least), key=lambda word: (-words[word], word))
    pieces = _pieces([word for word in words if words[word] < least]) if rare else []
    spelled = [*characters, *(f"##{character}" for character in characters), *pieces]
    entries = [*_SPECIAL, *spelled, *frequent[:_MAX_WORDS]]
    vocabulary = {entry: number for number, entry in enumerate(dict.fromkeys(entries))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _pieces(words: Sequence[str]) -> list[str]:
    """The most frequent beginnings and later parts of the words, each of two letters or more."""
    found: Counter[str] = Counter()
    for word in words:
        for length in range(2, _LONGEST + 1):
            starts = range(len(word) - length + 1)
            found.update(("##" if start else "") + word[start : start + length] for start in starts)
    return sorted(found, key=lambda piece: (-found[piece] * len(piece.lstrip("#")), piece))[:_PIECES]
