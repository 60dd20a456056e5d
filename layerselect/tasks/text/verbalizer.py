"""Label words: classification as writing the label, and how likely a model is to write each.

IR-Tuning (Liu & Litman, arXiv 2510.00268) sets its classification head beside instruction tuning, where the model
writes the label's words after the prompt. What is trained is the probability of the words alone, not of the prompt.
Each answer is closed by the end token. Then no answer begins another ("clarity" and "clarity, style"), the
probabilities of different answers exclude each other, and the sum of the tokens' log-probabilities is log P(answer |
prompt) itself: the loss is minus that sum, and the answers are compared by it. (Dividing by the length, as is done to
compare answers a model was never trained to give (Brown et al., arXiv 2005.14165, section 2.4), would make a long label
more likely than the model has it.) Over all answers the probabilities add up to less than 1, since the model might
write something else; they are normalised over the answers.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import LayerSelectError
from ...models.traits import traits_of
from .completions import base_of, completion_tokens, forward_padded, nll
from .completions import pad_answers as pad_answers  # found here by those who pad verbalizer words
from .formats import CUE

MAX_SETS = 64
"""Sets of several labels that are scored: the most frequent ones of the training split."""

Answer = tuple[int, ...]
"""A set of labels, as class numbers in ascending order."""


class Verbalizer:
    """The answers that a model may give, in token ids.

    Args:
        tokenizer: has an end token.
        labels: the names of the classes.
        answers: the label sets that are scored; by default each label alone.

    Raises:
        LayerSelectError: no end token, or two answers that the tokenizer writes alike.
    """

    def __init__(self, tokenizer: Any, labels: Sequence[str], answers: Sequence[Answer] | None = None) -> None:
        if tokenizer.eos_token_id is None:
            raise LayerSelectError(
                "the tokenizer has no end token, which closes the label's words: use --head classifier"
            )
        self._tokenizer, self._labels = tokenizer, list(labels)
        self.answers = [tuple(answer) for answer in answers or [(number,) for number in range(len(labels))]]
        self._known: dict[Answer, list[int]] = {}
        self.tokens = [self.tokens_of(answer) for answer in self.answers]
        seen: dict[tuple[int, ...], Answer] = {}
        for answer, tokens in zip(self.answers, self.tokens, strict=True):
            other = seen.setdefault(tuple(tokens), answer)
            if other != answer:
                raise LayerSelectError(
                    f"the model's tokenizer writes the labels {self.text(other)!r} and {self.text(answer)!r} alike: "
                    "use --head classifier"
                )

    @property
    def longest(self) -> int:
        """Tokens of the longest answer; a set that is not among the answers may have more."""
        return max(map(len, self.tokens))

    def text(self, answer: Answer) -> str:
        """The words of an answer, as the prompt spells the labels."""
        return ", ".join(self._labels[number] for number in answer)

    def tokens_of(self, answer: Answer) -> list[int]:
        """What the model is to write after the prompt for this answer, the end token included."""
        if answer not in self._known:
            self._known[answer] = completion_tokens(self._tokenizer, CUE, self.text(answer))
        return self._known[answer]

    def membership(self) -> Tensor:
        """``bool [K, C]``: which labels each answer holds."""
        found = torch.zeros(len(self.answers), len(self._labels), dtype=torch.bool)
        for number, answer in enumerate(self.answers):
            found[number, list(answer)] = True
        return found


def label_sets(targets: np.ndarray, num_labels: int) -> list[Answer]:
    """The answers for a training split: each label alone, then the sets of several labels that it has, frequent first.

    Args:
        targets: class numbers int64 ``[n]`` or 0/1 ``[n, C]``.
    """
    alone: list[Answer] = [(number,) for number in range(num_labels)]
    if targets.ndim == 1:
        return alone
    counts = Counter(answer for answer in map(as_answer, targets) if len(answer) > 1)
    return alone + [answer for answer, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_SETS]]


def as_answer(target: np.ndarray | Tensor | int) -> Answer:
    """A class number, or a row of 0/1, as an answer."""
    row = np.asarray(target)
    return (int(row),) if row.ndim == 0 else tuple(np.flatnonzero(row > 0.5).tolist())


@torch.no_grad()
def score(model: nn.Module, prompts: Mapping[str, Tensor], answers: Sequence[Sequence[int]]) -> Tensor:
    """The log-probability of every answer after every prompt, float32 ``[B, K]``.

    The prompts are read once; each answer is read after a copy of what the model remembers of them. A model that
    remembers nothing, or does not go on from what it remembers as if it had read everything at once, reads prompt and
    answer again for each answer (:mod:`layerselect.models.traits`).
    """
    ids, mask = prompts["input_ids"], prompts["attention_mask"]
    traits = traits_of(base_of(model))
    output = forward_padded(model, ids, mask, keep=1, use_cache=True) if traits.continues and traits.pads else None
    memory = getattr(output, "past_key_values", None)
    if output is None or memory is None:
        alike = [torch.tensor([answer] * len(ids), device=ids.device) for answer in answers]
        return torch.stack([-nll(model, prompts, tokens, torch.ones_like(tokens)) for tokens in alike], dim=1)
    first = output.logits[:, -1].float().log_softmax(dim=-1)
    scores = []
    for answer in answers:
        total = first[:, answer[0]]
        if len(answer) > 1:
            tokens = torch.tensor([answer] * len(ids), device=ids.device)
            read = tokens[:, :-1]
            logits = forward_padded(
                model,
                read,
                torch.cat([mask, torch.ones_like(read)], dim=1),
                use_cache=True,
                past_key_values=copy.deepcopy(memory),
            ).logits
            log_p = logits.float().log_softmax(dim=-1)
            total = total + log_p.gather(2, tokens[:, 1:, None]).squeeze(2).sum(dim=1)
        scores.append(total)
    return torch.stack(scores, dim=1)


def label_logits(scores: Tensor, membership: Tensor) -> Tensor:
    """Scores of the answers as one logit a label, float32 ``[B, C]``.

    Where every answer is one label: the scores themselves, whose softmax is the normalised probability of the labels.
    Otherwise the log-odds of each label, whose sigmoid is the normalised probability of all answers that hold it.

    Args:
        scores: float32 ``[B, K]``.
        membership: bool ``[K, C]``.
    """
    membership = membership.to(scores.device)
    if bool((membership.sum(dim=1) == 1).all()) and membership.shape[0] == membership.shape[1]:
        return scores[:, membership.int().argmax(dim=0)]
    spread = scores[:, :, None].expand(-1, -1, membership.shape[1])
    with_label = spread.masked_fill(~membership, -torch.inf).logsumexp(dim=1)
    without = spread.masked_fill(membership, -torch.inf).logsumexp(dim=1)
    return with_label - without
