"""A few training examples in front of a prompt: what a model can do that is shown the task and not trained on it."""

from __future__ import annotations

import random
import re
from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import LayerSelectError
from ...metrics.texts import same_text
from ...models.load import LoadedModel
from ...models.positions import usable_positions
from ..text.completions import CompletionSplit, prompt_tokens
from .config import ReviseConfig
from .examples import token_budget, token_counter
from .prompts import REQUEST, write_completion, write_prompt

#: What stands behind each example. No text of a corpus holds it: white space is made single.
BETWEEN = "\n\n"
#: Where another example begins, in the words of any tokenizer: some leave lines out, some put spaces around stops.
_ANOTHER = re.compile(r"\n\s*\n|" + r"\s*".join(re.escape(word) for word in re.findall(r"\w+|[^\w\s]", REQUEST)))
#: Prompts that are looked at to see whether the shots fit: those with the fewest tokens to spare.
_LOOKED_AT = 16


@dataclass(frozen=True)
class Shots:
    """The examples, the same for every prompt.

    Attributes:
        ids: of their rows in the training split, in the order in which they stand.
        text: prompts and revisions, each with what stands behind it.
    """

    ids: tuple[str, ...]
    text: str

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def name(self) -> str:
        """The row of what the untrained model writes behind them."""
        return f"untrained, {len(self)} shot{'s' if len(self) > 1 else ''}"

    def prompts(self, split: CompletionSplit, tokenizer: Any) -> list[list[int]]:
        """The prompts of a split behind the shots, in tokens."""
        return [self._prompt(row, tokenizer) for row in split.rows]

    def _prompt(self, row: Mapping[str, Any], tokenizer: Any) -> list[int]:
        return prompt_tokens(tokenizer, self.text + write_prompt(row["source"], row["intentions"]))

    def need(self, rows: Sequence[Mapping[str, Any]], tokenizer: Any, most: int | None) -> int:
        """The most positions that a prompt takes with its revision and the end token."""
        count = token_counter(tokenizer)
        return max(len(self._prompt(row, tokenizer)) + _room(count(row["source"]), most) for row in rows)


def choose_shots(
    train: CompletionSplit,
    evaluated: Sequence[CompletionSplit],
    config: ReviseConfig,
    loaded: LoadedModel,
) -> Shots | None:
    """The examples that ``--shots`` asks for, if it asks for any.

    They are drawn by ``--split-seed`` alone, so that runs with several seeds have the same, from the shorter half of
    the training examples for each intention; intentions that few drawn examples have go first. Where the shots, the
    longest prompt and its revision have no room in the model, they are drawn from the shortest quarter, eighth, and so
    on, and at last are the shortest of all. Texts that were cut, are empty or do not change show nothing and are left
    out.

    Args:
        evaluated: the splits that are revised.
        loaded: the model that reads them.

    Raises:
        LayerSelectError: there are too few such examples, or not even the shortest ones fit.
    """
    asked, most, tokenizer = config.shots, config.max_new_tokens, loaded.tokenizer
    if not asked:
        return None
    positions = usable_positions(loaded.model)
    usable = [number for number, row in enumerate(train.rows) if _shows_something(row)]
    if len(usable) < asked:
        raise LayerSelectError(
            f"--shots {asked}: the training split has {len(usable)} revisions that are whole and change something, so "
            f"{'leave it out' if not usable else f'use at most {len(usable)}'}"
        )
    by_length = sorted(usable, key=lambda number: (train.lengths[number], number))
    longest = _longest(evaluated, most, tokenizer)
    for pool in _pools(train.rows, by_length, asked):
        drawn = _varied(train.rows, pool, asked, config.split_seed)
        shots = _shots([train.rows[number] for number in drawn])
        if positions is None or shots.need(longest, tokenizer, most) <= positions:
            return shots
    shortest = [train.rows[number] for number in by_length[:asked]]
    # More shots need more room, so the most that fit are found by halving.
    fewer = bisect(range(1, asked), positions, key=lambda few: _shots(shortest[:few]).need(longest, tokenizer, most))
    raise LayerSelectError(
        f"--shots {asked}: {loaded.source} reads at most {positions} tokens, in which the {asked} shortest examples, "
        "the longest text and its revision have no room: use "
        + (f"--shots {fewer}" if fewer else "none, or a lower --max-length")
    )


def read_first(text: str) -> str:
    """The first revision in what a model wrote, which may go on with examples of its own."""
    return _ANOTHER.split(text.lstrip(), maxsplit=1)[0]


def _shots(rows: Sequence[Mapping[str, Any]]) -> Shots:
    texts = [
        f"{write_prompt(row['source'], row['intentions'])} {write_completion(row['references'][0])}{BETWEEN}"
        for row in rows
    ]
    return Shots(tuple(row["id"] for row in rows), "".join(texts))


def _shows_something(row: Mapping[str, Any]) -> bool:
    before, after = row["source"], row["references"][0]
    return not row["cut"] and bool(before.strip() and after.strip()) and not same_text(before, after)


def _room(tokens: int, most: int | None) -> int:
    """Positions for the revision of a source of so many tokens, and for the end token."""
    budget = token_budget(tokens)
    return 1 + (budget if most is None else min(budget, most))


def _longest(splits: Sequence[CompletionSplit], most: int | None, tokenizer: Any) -> list[Mapping[str, Any]]:
    count = token_counter(tokenizer)
    needs = [
        (len(prompt) + _room(count(row["source"]), most), row)
        for split in splits
        for prompt, row in zip(split.prompts, split.rows, strict=True)
    ]
    needs.sort(key=lambda each: -each[0])
    return [row for _, row in needs[:_LOOKED_AT]]


def _pools(rows: Sequence[Mapping[str, Any]], by_length: Sequence[int], asked: int) -> Iterator[Sequence[int]]:
    """What is drawn from, shorter and shorter: of the examples for each intention the same share, and one at least."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for number in by_length:
        groups.setdefault(tuple(rows[number]["intentions"]), []).append(number)
    part = 2
    while True:
        pool = [number for group in groups.values() for number in group[: -(-len(group) // part)]]
        if len(pool) <= max(asked, len(groups)):
            break
        yield pool
        part *= 2
    yield by_length[:asked]


def _varied(rows: Sequence[Mapping[str, Any]], pool: Sequence[int], count: int, seed: int) -> list[int]:
    """``count`` numbers of the pool, drawn so that intentions occur about equally often."""
    left, seen, drawn = list(pool), Counter[str](), list[int]()
    random.Random(seed).shuffle(left)
    while len(drawn) < count:
        best = min(left, key=lambda number: sum(seen[name] for name in rows[number]["intentions"]))
        left.remove(best)
        seen.update(rows[best]["intentions"])
        drawn.append(best)
    return drawn
