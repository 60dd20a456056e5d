"""Revises new texts with a trained generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import LayerSelectError
from ...models.adapter_files import find_adapter
from ...models.load import load_causal_lm
from ...models.running import placed
from ...models.saved_adapter import holding_for, load_adapted, read_meta
from ...models.tokenizers import pad_on, saved_tokenizer
from ...utils.saved_schema import Fields, Items, Text, Whole
from ..text.completions import prompt_tokens
from .cutting import outer_space, split_text
from .examples import token_budget, token_counter
from .generate import GenerationConfig, generate
from .prompts import read_completion, tidy, write_prompt

_META = Fields({"labels": Items(Text()), "max_length": Whole(1, 2**31 - 1)})


@dataclass(frozen=True)
class _Piece:
    """A part of a text: white space in front, what is revised, white space behind."""

    front: str
    text: str
    behind: str


class Rewriter:
    """A trained generator, ready to revise texts.

    ::

    rewriter = Rewriter.load("runs/revise")
    rewriter.rewrite(["He go home."], intentions=["fluency"])

    Attributes:
        labels: the intentions that it was trained with.
        max_length: tokens of a text that are revised at a time; a longer one is revised piece by piece, cut at sentence
            borders.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, *, labels: Sequence[str], max_length: int, device: str = "cpu"
    ) -> None:
        self.model = placed(model, device).eval()
        self.tokenizer, self.labels, self.max_length, self.device = tokenizer, list(labels), max_length, device

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        model: str | Path | None = None,
        device: str = "cpu",
        dtype: str | None = None,
        quantize: str | None = None,
    ) -> Rewriter:
        """Loads the adapter of a run.

        Args:
            folder: the folder of a run, or its ``adapter`` folder.
            model: where the base model lies now, if it has moved.
            dtype, quantize: how the base model is held, see :class:`~layerselect.models.holding.Holding`; ``None``: as
                it was trained.

        Raises:
            LayerSelectError: no such adapter there, its base model is missing or is another model, or a damaged file.
        """
        path = find_adapter(folder)
        meta = read_meta(path, "revise", _META, command="layerselect revise")
        holding = holding_for(path, meta, device=device, dtype=dtype, quantize=quantize)
        network = load_adapted(path, meta, partial(load_causal_lm, holding=holding), model=model)
        tokenizer = saved_tokenizer(path)
        pad_on(tokenizer, writes=True)
        return cls(network, tokenizer, labels=meta["labels"], max_length=meta["max_length"], device=device)

    def rewrite(
        self,
        texts: Sequence[str],
        intentions: Sequence[str] = (),
        *,
        generation: GenerationConfig | None = None,
        batch_size: int = 8,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> list[str]:
        """Revises texts; the white space around each piece stays, that inside of it is made single.

        Args:
            intentions: what the revisions are for; any of :attr:`labels`, or none.
            on_batch: told how many pieces of how many are done.

        Raises:
            LayerSelectError: an intention that the generator was not trained with.
        """
        for name in intentions:
            if name not in self.labels:
                raise LayerSelectError(
                    f"the intention {name!r} is none that this generator was trained with: {', '.join(self.labels)}"
                )
        count = token_counter(self.tokenizer)
        pieces = [
            [_Piece(*outer_space(part)) for part in split_text(text, lambda part: count(part) <= self.max_length)]
            for text in texts
        ]
        asked = [piece for each in pieces for piece in each if piece.text]
        written = iter(
            generate(
                self.model,
                self.tokenizer,
                [prompt_tokens(self.tokenizer, write_prompt(piece.text, intentions)) for piece in asked],
                generation or GenerationConfig(),
                batch_size=batch_size,
                budgets=[token_budget(count(tidy(piece.text))) for piece in asked],
                device=self.device,
                on_batch=on_batch,
            )
            if asked
            else ()
        )
        return [
            "".join(
                piece.front + (read_completion(next(written)) if piece.text else "") + piece.behind for piece in each
            )
            for each in pieces
        ]
