"""What cached hidden states save: step time after the first epoch on a 12-layer decoder with LoRA, as ratios to
training all layers.

    python -m pytest bench/bench_cache.py --benchmark-only --benchmark-enable -s

Each selection is trained twice, by freezing alone and with cached hidden states. All of them take turns within each
round, in an order drawn anew; each step takes the next of a few batches, which every way has seen before the clock
starts: steps of a later epoch. A ratio is the median of the quotients within the rounds; in brackets the interval of 95
% in which that median lies. Seconds are those of the processor, one thread.
"""

from __future__ import annotations

import itertools
import statistics
import time

import torch
from layerselect import FastSelector
from torch import nn

from decoders import NARROW, lora_decoder, with_own_adapters
from layouts import Turns, bootstrap_interval

LAYERS = 12
ROUNDS = 15
VOCABULARY = 2048
#: Selection: the lowest layer that trains, and the most that a step may take of the step that trains all.
CUTS = {"top half": (6, 0.60), "top quarter": (9, 0.33), "top two": (10, 0.22)}


class Step:
    """Training steps of one way, over the same few batches again and again."""

    def __init__(self, model: nn.Module, batches: list[torch.Tensor], cut: int, state_cache: str) -> None:
        rule = f"fixed:layers={list(range(cut, LAYERS))}"
        self._model, self._batches = model, itertools.cycle(batches)
        model.train()
        options = {"state_cache": state_cache, "cut": cut} if state_cache != "none" else {}
        self.selector = FastSelector(model, rule, mode="freeze", probe_every=0, **options)
        self._optimizer = torch.optim.AdamW(self.selector.trainable_parameters(), lr=1e-4)
        self.selector.attach(self._optimizer)
        for _ in batches:
            self()

    def __call__(self) -> None:
        tokens = next(self._batches)
        self._model(input_ids=tokens, labels=tokens).loss.backward()
        self.selector.step()
        self._optimizer.step()
        self._optimizer.zero_grad()


def test_cache(benchmark):
    torch.set_num_threads(1)
    model = lora_decoder(**NARROW, num_hidden_layers=LAYERS, vocab_size=VOCABULARY)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(0, VOCABULARY, (8, 128), generator=generator) for _ in range(4)]
    steps = {"all layers": Step(with_own_adapters(model), batches, 0, "none")}
    for name, (cut, _) in CUTS.items():
        for state_cache in ("none", "cached"):
            steps[f"{name}, {state_cache}"] = Step(with_own_adapters(model), batches, cut, state_cache)
    turns = Turns(steps, clock=time.process_time)
    turns.measure(benchmark, ROUNDS, threads=1)

    print(f"\nall layers: {turns.median('all layers'):.3f} s a step")
    print(f"{'selection':14s}{'frozen':>8s}{'':17s}{'cached states':>12s}{'':17s}{'bytes of states':>16s}")
    for name, (_, most) in CUTS.items():
        line = f"{name:14s}"
        for state_cache in ("none", "cached"):
            pairs = zip(turns.seconds[f"{name}, {state_cache}"], turns.seconds["all layers"], strict=True)
            quotients = [a / b for a, b in pairs]
            ratio, (low, high) = statistics.median(quotients), bootstrap_interval([quotients])
            line += f"{ratio:8.2f} ({low:.2f} to {high:.2f}){'':3s}"
            benchmark.extra_info[f"{name}, {state_cache}"] = {"ratio": ratio, "low": low, "high": high}
        kept = steps[f"{name}, cached"].selector.state_cache
        assert kept is not None and kept.filled == len(batches) * 8 and kept.read > kept.filled
        print(f"{line}{kept.store.bytes_in_memory / 1e6:9.1f} MB   <= {most}: {'met' if ratio <= most else 'missed'}")
