"""What the generation metrics share: checks of their input, tokens, n-grams."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import LayerSelectError
from ..utils.saved_words import shown

Ngrams = Counter[tuple[str, ...]]

# The rules of mteval-v13a, NIST's tokenizer for English.
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_13A = (
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),  # punctuation other than . , - '
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),  # a period or comma that follows no digit
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),  # or that no digit follows
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),  # a hyphen behind a digit
)


def tokenize_13a(text: str) -> list[str]:
    """Splits as mteval-v13a does, which is what SARI is computed on; where a script puts no space between words, by
    character.
    """
    text = spaced(text).replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    text = f" {text} "
    for pattern, replacement in _13A:
        text = pattern.sub(replacement, text)
    return text.split()


def count_ngrams(tokens: Sequence[str], order: int) -> Ngrams:
    """How often each run of ``order`` tokens occurs."""
    return Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1))


def checked_texts(
    predictions: Iterable[str], references: Iterable[Iterable[str]], sources: Iterable[str] | None = None
) -> tuple[list[str], list[list[str]], list[str]]:
    """Predictions, references and sources as lists, whatever held them: lists, tuples, columns of a data frame, arrays,
    generators.

    Raises:
        LayerSelectError: the lengths differ, there is no example, one has no reference, or something is no text.
    """
    texts = _texts("predictions", predictions)
    if not texts:
        raise LayerSelectError("there are no predictions to score")
    each = _items("references", references)
    if any(isinstance(one, str) for one in each):
        raise LayerSelectError("references must be a list of lists: every source may have several")
    several = [_texts(f"references[{number}]", one) for number, one in enumerate(each)]
    before = texts if sources is None else _texts("sources", sources)
    for name, others in (("references", several), ("sources", before)):
        if len(others) != len(texts):
            raise LayerSelectError(f"there are {len(texts)} predictions and {len(others)} {name}")
    for number, one in enumerate(several):
        if not one:
            raise LayerSelectError(f"example {number} has no reference")
    return texts, several, before


def _texts(name: str, values: Any) -> list[str]:
    found = _items(name, values)
    for number, text in enumerate(found):
        if not isinstance(text, str):
            raise LayerSelectError(
                f"{name}[{number}] is {shown(text)} and must be a text (an empty one where nothing was written)"
            )
    return [str(text) for text in found]


def _items(name: str, values: Any) -> list[Any]:
    if isinstance(values, (str, bytes, Mapping)) or values is None:
        raise LayerSelectError(f"{name} is {shown(values)} and must be a list")
    try:
        return list(values)
    except (TypeError, RuntimeError) as error:
        raise LayerSelectError(f"{name} is {shown(values)} and must be a list") from error


# Scripts that put no space between words: Thai, Lao, Tibetan, Burmese, Khmer, kana, Chinese characters.
_UNSPACED = re.compile(
    "[\u0e00-\u0e7f\u0e80-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"
    "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9d\U00020000-\U0002fa1f]"
)


def spaced(text: str) -> str:
    """``text`` with a space around each character of a script that puts none between words: there a character counts as
    a word. Other texts are returned as they are.
    """
    return _UNSPACED.sub(r" \g<0> ", text)


class WordTokenizer:
    """Splits for ROUGE: runs of letters, marks and digits of any script, in lower case, nothing stemmed.

    Of text in ASCII these are the tokens of rouge-score's own tokenizer, which drops every other letter. For
    ``rouge_score.rouge_scorer.RougeScorer(tokenizer=)``.
    """

    def tokenize(self, text: str) -> list[str]:
        words = "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text.lower())
        return spaced(words).split()


def same_text(a: str, b: str) -> bool:
    """Equal but for the amount of white space."""
    return a.split() == b.split()
