"""Tokenizers: from a folder or a hub id, and how they pad and pair texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from ..errors import LayerSelectError
from ..utils.saved_words import shown
from .folders import checked_source
from .load_errors import sentence_of
from .vocabulary import check_words

#: What Rust raises where it has met something impossible: no ``Exception``, so that nobody catches it.
_PANIC = "PanicException"


def load_tokenizer(source: str | Path) -> Any:
    """The tokenizer of a model.

    Raises:
        LayerSelectError: no such folder or hub id.
    """
    return saved_tokenizer(checked_source(source, weights=False))


def saved_tokenizer(source: str | Path) -> Any:
    """The tokenizer in a folder that need not hold a model, or of a hub id.

    Raises:
        LayerSelectError: it cannot be loaded, knows no words, or cannot read a text.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
        check_words(tokenizer, str(source))
        separates_pairs(tokenizer)  # it can read a text
    except LayerSelectError:
        raise
    except Exception as error:  # tokenizers of all makes raise whatever they like
        raise LayerSelectError(sentence_of(str(source), error)) from error
    except BaseException as error:
        if type(error).__name__ != _PANIC:
            raise
        raise LayerSelectError(
            f"the tokenizer of {str(source)!r} is broken ({shown(str(error))}): take its files anew from where the "
            "model was made"
        ) from error
    return tokenizer


def pad_on(tokenizer: Any, *, writes: bool) -> None:
    """Settles the side on which inputs are padded: what is written follows the prompt, so padding stands in front of
    it.
    """
    tokenizer.padding_side = "left" if writes else "right"
    tokenizer.init_kwargs["padding_side"] = tokenizer.padding_side  # saved is what a tokenizer was made with


def separates_pairs(tokenizer: Any) -> bool:
    """Whether the tokenizer puts a token of its own between the two parts of a pair.

    A second start token does not count: a decoder has seen it at the start of texts only.
    """
    start = {tokenizer.bos_token_id} - {tokenizer.sep_token_id, tokenizer.eos_token_id}
    parts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", "b")]
    own = [i for i in tokenizer("a", "b")["input_ids"] if i not in parts[0] and i not in parts[1] and i not in start]
    alone = [i for i in tokenizer("a")["input_ids"] if i not in parts[0] and i not in start]
    return len(own) > len(alone)
