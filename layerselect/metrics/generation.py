"""Metrics of revised texts: SARI, GLEU, Update-ROUGE, exact match and the share of copies."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .texts import Ngrams, WordTokenizer, checked_texts, count_ngrams, same_text, spaced, tokenize_13a

_ORDERS = (1, 2, 3, 4)
_ROUGE = ("rouge1", "rouge2", "rougeLsum")
_GLEU_SAMPLES = 500
#: Full stops: Latin and most others, Chinese and Japanese, Devanagari, Urdu, Ethiopic, Armenian.
_STOPS = ".\u3002\uff61\u0964\u06d4\u1362\u0589"
_STOP = re.compile(f"[{_STOPS}]")


@dataclass(frozen=True)
class SariScore:
    """SARI and its three parts, each in [0, 100]; ``sari`` is their mean."""

    sari: float
    add: float
    keep: float
    delete: float

    def __float__(self) -> float:
        return self.sari


def sari(sources: Sequence[str], predictions: Sequence[str], references: Sequence[Sequence[str]]) -> SariScore:
    """How well words were added, kept and deleted (Xu et al., TACL 2016), as EASSE computes it by default: over the
    corpus, 13a tokens, lower case, F1 for each part and n-gram order, F1 for deletion too, mean over orders 1 to 4.

    For each order, the counts are summed over the corpus. What a prediction adds counts once, however often it occurs;
    what is kept and deleted counts with its frequency, the source's and the prediction's multiplied by the number of
    references. A part in which nothing can be right (nothing was added by anyone) scores 0, so copying a source that
    needs no change gives 33.3.

    Args:
        sources, predictions: ``n`` texts.
        references: for each source, one or more texts.

    Raises:
        LayerSelectError: the lengths differ or a source has no reference.
    """
    add, keep, delete = sari_parts(sari_counts(sources, predictions, references).sum(axis=0)).tolist()
    return SariScore((add + keep + delete) / 3, add, keep, delete)


def sari_counts(sources: Sequence[str], predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """What SARI sums over the corpus, for each example: float64 ``[n, 4, 3, 3]``.

    The axes are: example; order of the n-grams; add, keep, delete; how many were right, done by the prediction, done by
    the references.

    Raises:
        LayerSelectError: as for :func:`sari`.
    """
    predictions, references, sources = checked_texts(predictions, references, sources)
    counts = np.zeros((len(predictions), len(_ORDERS), 3, 3))
    for number, (source, prediction, several) in enumerate(zip(sources, predictions, references, strict=True)):
        tokens = [tokenize_13a(text.lower()) for text in (source, prediction, *several)]
        for row, order in enumerate(_ORDERS):
            before, after, *wanted = (count_ngrams(each, order) for each in tokens)
            counts[number, row] = _edit_counts(before, after, wanted)
    return counts


def sari_parts(counts: np.ndarray) -> np.ndarray:
    """add, keep and delete in [0, 100], float64 ``[..., 3]``, of summed counts ``[..., 4, 3, 3]``
    (:func:`sari_counts`); SARI is their mean. Where nothing is right, the F1 is 0.
    """
    right, done, wanted = counts[..., 0], counts[..., 1], counts[..., 2]
    f1 = np.where(right > 0, 2 * right / np.maximum(done + wanted, 1e-300), 0.0)
    parts: np.ndarray = 100.0 * f1.mean(axis=-2)
    return parts


def gleu(sources: Sequence[str], predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """GLEU (Napoles et al., ACL 2015, with the fix of arXiv 1605.02592), over the corpus, on tokens separated by white
    space (where a script puts none between words, on characters).

    BLEU's precision, from which n-grams are subtracted that the prediction shares with the source and not with the
    reference. With several references, the mean over 500 draws of one reference for each source, with the seeds of the
    authors' code.

    Returns:
        In [0, 1]; 0 where some order has no n-gram that is right.

    Raises:
        LayerSelectError: as for :func:`sari`.
    """
    predictions, references, sources = checked_texts(predictions, references, sources)
    split = [_words(text) for text in predictions]
    statistics = [
        [_gleu_counts(_words(source), prediction, _words(reference)) for reference in several]
        for source, prediction, several in zip(sources, split, references, strict=True)
    ]
    counts = {len(each) for each in statistics}
    if counts == {1}:
        return _gleu(np.sum([each[0] for each in statistics], axis=0))
    scores = []
    for sample in range(_GLEU_SAMPLES):
        generator = random.Random(sample * 101)
        drawn = [each[generator.randint(0, len(each) - 1)] for each in statistics]
        scores.append(_gleu(np.sum(drawn, axis=0)))
    return float(np.mean(scores))


def sentence_gleu(source: str, prediction: str, references: Sequence[str]) -> float:
    """GLEU of one text, counts of 0 made 1, the mean over its references: for sorting examples, not for reporting."""
    (prediction,), (references,), (source,) = checked_texts([prediction], [references], [source])
    return float(
        np.mean(
            [
                _gleu(np.maximum(_gleu_counts(_words(source), _words(prediction), _words(reference)), 1))
                for reference in references
            ]
        )
    )


def update_rouge(
    sources: Sequence[str], predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """ROUGE of what is new, as EditEval defines it (Dwivedi-Yu et al., 2022): of the sentences that do not stand in the
    source.

    A sentence ends with a period (or the full stop of its script). Words are those of any script; of English ones the
    figures are those of rouge-score's own tokenizer. Where a script puts no space between words, a character counts as
    one. Where neither the prediction nor the reference has anything new, the example scores 1. Of several references
    the best counts, measure by measure (EditEval has one). The plain mean over examples.

    Returns:
        ``rouge1``, ``rouge2`` and ``rougeLsum``: F-measures in [0, 1].

    Raises:
        LayerSelectError: as for :func:`sari`.
        ModuleNotFoundError: ``rouge-score`` is not installed.
    """
    from rouge_score.rouge_scorer import RougeScorer

    predictions, references, sources = checked_texts(predictions, references, sources)
    scorer = RougeScorer(list(_ROUGE), tokenizer=WordTokenizer())
    totals = dict.fromkeys(_ROUGE, 0.0)
    for source, prediction, several in zip(sources, predictions, references, strict=True):
        ours = _additions(source, prediction)
        best = dict.fromkeys(_ROUGE, 0.0)
        for reference in several:
            theirs = _additions(source, reference)
            scores = scorer.score(theirs, ours) if (ours or theirs) else None
            for name in _ROUGE:
                best[name] = max(best[name], 1.0 if scores is None else scores[name].fmeasure)
        for name in _ROUGE:
            totals[name] += best[name]
    return {name: total / len(predictions) for name, total in totals.items()}


def exact_match(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The share of predictions that equal one of their references but for white space, in [0, 1]."""
    predictions, references, _ = checked_texts(predictions, references)
    hits = [any(same_text(p, one) for one in several) for p, several in zip(predictions, references, strict=True)]
    return sum(hits) / len(hits)


def copy_rate(sources: Sequence[str], predictions: Sequence[str]) -> float:
    """The share of predictions that equal their source but for white space, in [0, 1]."""
    sources = list(sources)
    predictions, _, sources = checked_texts(predictions, [[source] for source in sources], sources)
    return sum(same_text(s, p) for s, p in zip(sources, predictions, strict=True)) / len(predictions)


def _words(text: str) -> list[str]:
    return spaced(text).split()


def _edit_counts(before: Ngrams, after: Ngrams, wanted: Sequence[Ngrams]) -> np.ndarray:
    """float64 [3, 3]: rows add, keep, delete; columns right, done by the prediction, done by the references."""
    union: Ngrams = Counter()
    for one in wanted:
        union += one
    times = len(wanted)
    before_times = Counter({gram: times * count for gram, count in before.items()})
    after_times = Counter({gram: times * count for gram, count in after.items()})
    added, to_add = set(after) - set(before), set(union) - set(before)
    kept, to_keep = before_times & after_times, before_times & union
    deleted, to_delete = before_times - after_times, before_times - union
    return np.array(
        [
            [len(added & to_add), len(added), len(to_add)],
            [(kept & to_keep).total(), kept.total(), to_keep.total()],
            [(deleted & to_delete).total(), deleted.total(), to_delete.total()],
        ],
        dtype=np.float64,
    )


def _gleu_counts(source: Sequence[str], prediction: Sequence[str], reference: Sequence[str]) -> np.ndarray:
    """float64 [10]: lengths of prediction and reference; for each order what is right, and how many n-grams there
    are.
    """
    counts = [len(prediction), len(reference)]
    for order in _ORDERS:
        ours, wanted = count_ngrams(prediction, order), count_ngrams(reference, order)
        unwanted = Counter({g: c for g, c in count_ngrams(source, order).items() if g not in wanted})
        counts += [max((ours & wanted).total() - (ours & unwanted).total(), 0), max(len(prediction) + 1 - order, 0)]
    return np.array(counts, dtype=np.float64)


def _gleu(counts: np.ndarray) -> float:
    if (counts == 0).any():
        return 0.0
    length, reference = counts[:2]
    precision = float(np.log(counts[2::2] / counts[3::2]).mean())
    return math.exp(min(0.0, 1.0 - float(reference / length)) + precision)


def _additions(source: str, text: str) -> str:
    """The sentences of ``text`` that do not stand in ``source``."""
    sentences = [piece for piece in _sentences(text) if piece not in source]
    return " ".join(piece.strip() for piece in sentences).strip()


def _sentences(text: str) -> list[str]:
    """Pieces that end with their period; a run of periods belongs to none."""
    pieces, start = [], 0
    while start < len(text):
        if text[start] in _STOPS:
            start += 1
            continue
        stop = _STOP.search(text, start)
        end = len(text) if stop is None else stop.end()
        pieces.append(text[start:end])
        start = end
    return pieces
