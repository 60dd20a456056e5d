"""What a tokenizer makes of a text, and of no text at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import LayerSelectError

_SHOWN = 40
#: A tokenizer in Rust keeps what truncation cuts off, a piece for each pair of pieces: memory goes with their product.
_PIECES = 2_000
#: So many times what truncation can leave of a text is kept of one that is far longer.
_REACH = 4


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
        if second is not None and options.get("truncation"):
            text, second = _within_reach(tokenizer, text, second, options["max_length"])
        return tokenizer(text, second, **options)
    except Exception as error:  # tokenizers of all makes raise whatever they like
        shown = ascii(text[:_SHOWN])[1:-1] + ("..." if len(text) > _SHOWN else "")
        raise LayerSelectError(
            f"the model's tokenizer cannot read the text '{shown}' ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:120]}): mend it or leave it out"
        ) from error


def _within_reach(tokenizer: Any, text: str, second: str, length: int) -> tuple[str, str]:
    """A pair, of which what lies far behind the truncation is left out where it would take memory without a bound."""
    if not getattr(tokenizer, "is_fast", False) or (len(text) // length) * (len(second) // length) <= _PIECES:
        return text, second
    options = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
    one, other = (tokenizer(part, **options)["offset_mapping"] for part in (text, second))
    # Which of the two is longer decides where the last token is taken from.
    most = _REACH * length
    kept = (most + (len(one) > len(other)), most + (len(other) > len(one)))
    return _first(text, one, kept[0]), _first(second, other, kept[1])


def _first(text: str, ends: Sequence[tuple[int, int]], count: int) -> str:
    """The text up to the end of its first ``count`` tokens."""
    return text[: ends[count - 1][1]] if len(ends) > count else text


def blank_token(tokenizer: Any) -> int | None:
    """What stands for a text of no tokens, which no model reads: a token that is in front of texts, or ends or pads
    them.
    """
    names = ("bos_token_id", "cls_token_id", "eos_token_id", "sep_token_id", "pad_token_id")
    return next((number for name in names if (number := getattr(tokenizer, name, None)) is not None), None)
