"""What a tokenizer makes of a text, and of no text at all."""

from __future__ import annotations

from typing import Any

from ..errors import LayerSelectError

_SHOWN = 40


def read_tokens(tokenizer: Any, text: str, second: str | None = None, **options: Any) -> Any:
    """The tokenizer's encoding of a text, or of a pair.

    What a text holds is text: where the tokenizer's own marks (its end token, ``[SEP]``) stand in it, they are read as
    the characters that they are, and do not end or part what the model reads.

    Args:
        options: of the tokenizer.

    Raises:
        LayerSelectError: the tokenizer cannot read it.
    """
    marks = [mark for mark in tokenizer.all_special_tokens if mark in text or (second is not None and mark in second)]
    if marks:
        options["split_special_tokens"] = True
    try:
        return tokenizer(text, second, **options)
    except Exception as error:  # tokenizers of all makes raise whatever they like
        shown = ascii(text[:_SHOWN])[1:-1] + ("..." if len(text) > _SHOWN else "")
        raise LayerSelectError(
            f"the model's tokenizer cannot read the text '{shown}' ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:120]}): mend it or leave it out"
        ) from error


def blank_token(tokenizer: Any) -> int | None:
    """What stands for a text of no tokens, which no model reads: a token that is in front of texts, or ends or pads
    them.
    """
    names = ("bos_token_id", "cls_token_id", "eos_token_id", "sep_token_id", "pad_token_id")
    return next((number for name in names if (number := getattr(tokenizer, name, None)) is not None), None)
