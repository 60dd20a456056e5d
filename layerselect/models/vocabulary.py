"""The tokenizer's words beside the model's embeddings: what pads, what is missing, and what has no embedding.

The commonest fault of saved models is a token that was added to the tokenizer (``[PAD]``, names of a field) and not to
the model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import LayerSelectError

logger = logging.getLogger(__name__)

#: So many tokens besides the special ones are no vocabulary.
_FEW = 8


def embedding_rows(model: nn.Module) -> int | None:
    """How many tokens the model has embeddings for; ``None`` where it has no table of them."""
    try:
        table = model.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        return None
    weight = getattr(table, "weight", None)
    return weight.shape[0] if isinstance(weight, torch.Tensor) and weight.dim() == 2 else None


def check_words(tokenizer: Any, source: str) -> None:
    """Checks that the tokenizer knows words.

    Raises:
        LayerSelectError: the tokenizer knows no words: what was loaded is a tokenizer without its vocabulary.
    """
    special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
    known = tokenizer("The 3 words.", add_special_tokens=False)["input_ids"]
    if not set(known) - special and len(tokenizer) - len(special) <= _FEW:
        raise LayerSelectError(
            f"the tokenizer of {source!r} knows no words: its vocabulary (tokenizer.json, vocab.txt, "
            "tokenizer.model) is missing, so save it there with tokenizer.save_pretrained"
        )


def settle_padding(tokenizer: Any, rows: int | None, source: str) -> None:
    """Gives the tokenizer a padding token that the model has an embedding for: its own, or else its end token, or
    another mark.

    Raises:
        LayerSelectError: there is none.
    """
    own, number = tokenizer.pad_token, tokenizer.pad_token_id
    if number is not None and (rows is None or number < rows):
        return
    for name in ("eos_token", "sep_token", "unk_token", "bos_token", "cls_token", "mask_token"):
        other = getattr(tokenizer, f"{name}_id", None)
        if other is not None and (rows is None or other < rows):
            tokenizer.pad_token = getattr(tokenizer, name)
            break
    else:
        raise LayerSelectError(
            f"the tokenizer of {source!r} has neither a padding nor an end token that the model has an embedding "
            "for; set one of them"
        )
    if own is not None:
        logger.warning(
            "the tokenizer of %s pads with %r, number %d, and the model has %d embeddings: it is padded with %r "
            "instead",
            source,
            own,
            number,
            rows,
            tokenizer.pad_token,
        )


def settle_end(tokenizer: Any, config: Any, rows: int | None, source: str) -> None:
    """Gives the tokenizer of a writer an end token where it names none that the model has an embedding for: the one
    that the model's configuration names, or else what closes its texts (``[SEP]``). Where there is none, who needs one
    says so.
    """
    number = tokenizer.eos_token_id
    if number is not None and (rows is None or number < rows):
        return
    named = getattr(config, "eos_token_id", None)
    numbers = [*(named if isinstance(named, (list, tuple)) else [named]), tokenizer.sep_token_id]
    for other in numbers:
        if isinstance(other, int) and 0 <= other < min(len(tokenizer), rows or len(tokenizer)):
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(other)
            logger.warning(
                "the tokenizer of %s has no end token that the model knows: %r ends what is written",
                source,
                tokenizer.eos_token,
            )
            return


def highest_token(token_lists: Iterable[Sequence[int]]) -> int:
    """The highest number in lists of tokens; -1 where there is none."""
    return max((max(tokens) for tokens in token_lists if tokens), default=-1)


def cover_tokens(model: nn.Module, tokenizer: Any, token_lists: Iterable[Sequence[int]], source: str) -> None:
    """Gives tokens that occur and have no embedding one: the mean of all others, which is the same wherever it is done.

    Raises:
        LayerSelectError: they occur, and the model's embeddings cannot be resized.
    """
    rows = embedding_rows(model)
    highest = highest_token(token_lists)
    if rows is None or highest < rows:
        return
    word = tokenizer.convert_ids_to_tokens(highest)
    grow(
        model,
        max(highest + 1, len(tokenizer)),
        f"{source} ({rows} embeddings, and the corpus holds {word!r}, number {highest})",
    )
    logger.warning(
        "the tokenizer of %s has %d tokens and the model %d embeddings, and the corpus holds %r, number %d: the "
        "missing ones start as the mean of the others",
        source,
        len(tokenizer),
        rows,
        word,
        highest,
    )


def grow(model: nn.Module, rows: int, what: str) -> None:
    """Resizes a model's embeddings to at least ``rows``; new rows are the mean of the old ones.

    Raises:
        LayerSelectError: they cannot be resized; ``what`` says which model.
    """
    old = embedding_rows(model)
    if old is None or old >= rows:
        return
    try:
        model.resize_token_embeddings(rows, mean_resizing=False)
        tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    except Exception as error:  # what other people's models raise
        raise LayerSelectError(
            f"the embeddings of {what} cannot be resized ({type(error).__name__}): save a model and a tokenizer that "
            "belong together"
        ) from error
    with torch.no_grad():
        for table in tables:
            if table is not None and table.weight.shape[0] == rows:
                table.weight[old:] = table.weight[:old].mean(dim=0)
                if getattr(table, "bias", None) is not None:
                    table.bias[old:] = table.bias[:old].mean()
