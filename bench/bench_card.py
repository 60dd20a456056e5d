"""What the figures of a Layer Card cost beside the passes they are made of, on one thread.

    python -m pytest bench/bench_card.py --benchmark-only --benchmark-enable -s

Numerator: ``measure(..., timed=False, adapt_steps=0)``, all of it: both kinds of batches, the equations that are
    solved, coupling,
intervals. Denominator: over the same batches, one forward and one backward pass each, as under adapters: everything
frozen, autograd begins at the output of the lowest linear map and runs up to there, no weight has a gradient. Both take
turns in one process; the ratio is the median of the quotients within the rounds, in brackets the interval of 95 % for
it; seconds are those of the processor.

What is solved costs the same for any number of batches, so the ratio falls with more of them; 12 batches is little.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
import torch
from layerselect.card import measure
from layerselect.card.frozen import all_frozen, gradients_from
from layerselect.card.maps import find_maps
from torch import Tensor, nn

from layouts import Turns, bootstrap_interval

BATCHES, EXAMPLES, LENGTH = 12, 8, 64
VOCABULARY = 8192
ROUNDS = 3
LIMIT = 3.0


def decoder() -> nn.Module:
    """12 layers of SmolLM2-135M's shape, a loss at every token."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    return LlamaForCausalLM(LlamaConfig(num_hidden_layers=12, vocab_size=VOCABULARY, tie_word_embeddings=True, **shape))


def encoder() -> nn.Module:
    """12 layers of MiniLM's shape, one label for an example."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    shape = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 12}
    return BertForSequenceClassification(BertConfig(num_hidden_layers=12, vocab_size=VOCABULARY, num_labels=5, **shape))


def batches(labels: Callable[[Tensor, torch.Generator], Tensor]) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(BATCHES):
        tokens = torch.randint(VOCABULARY, (EXAMPLES, LENGTH), generator=generator)
        found.append(
            {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels(tokens, generator)}
        )
    return found


SHAPES: dict[str, tuple[Callable[[], nn.Module], Callable[[Tensor, torch.Generator], Tensor]]] = {
    "decoder": (decoder, lambda tokens, generator: tokens),
    "encoder": (encoder, lambda tokens, generator: torch.randint(5, (len(tokens),), generator=generator)),
}


def passes(model: nn.Module, sample: list[dict[str, Tensor]]) -> None:
    """The denominator."""
    maps = [linear for own in find_maps(model).maps for linear in own]
    with all_frozen(model), gradients_from(maps):
        for batch in sample:
            model(**batch).loss.backward()


@pytest.mark.parametrize("shape", SHAPES)
def test_card(benchmark, shape):
    make, labels = SHAPES[shape]
    model, sample = make(), batches(labels)
    turns = Turns(
        {"card": lambda: measure(model, sample, timed=False), "passes": lambda: passes(model, sample)},
        clock=time.process_time,
    )
    turns.measure(benchmark, ROUNDS, threads=1)
    ratio = turns.ratio("card", "passes")
    quotients = [a / b for a, b in zip(turns.seconds["card"], turns.seconds["passes"], strict=True)]
    low, high = bootstrap_interval([quotients])
    print(
        f"\n{shape}, {BATCHES} batches of {EXAMPLES} x {LENGTH}: passes {turns.median('passes'):.2f} s, card "
        f"{turns.median('card'):.2f} s; ratio {ratio:.2f} ({low:.2f} to {high:.2f}), "
        f"{statistics.fmean(quotients):.2f} in the mean; limit {LIMIT}"
    )
    benchmark.extra_info |= {"ratio": ratio, "low": low, "high": high}
    assert ratio <= LIMIT
