"""What FastSelector adds to a training step in mode "observe": a LoRA step of a model of SmolLM2-135M's shape.

    python -m pytest bench/bench_overhead.py --benchmark-only --benchmark-enable -s

Two estimates, because one per cent of a step is less than two steps on a busy machine differ by.

*Paired*: the same step with and without the selector, in turns, in seconds of the processor; the added share is the
median of the differences within the rounds, over the median step without. Four copies of the model share the frozen
weights and have adapters of their own: two without anything (their difference is what this estimate takes for nothing),
one with the selector, one with Python hooks that call ``.item()``.

*Direct*: the two places where the selector works, each alone. ``selector.step()`` is timed inside the steps of the
first estimate; the hooks by a backward pass that does nothing but hand gradients of the adapters' sizes to the
parameters, with and without the selector. Their sum over the median step without is the share, and this one resolves a
hundredth of a per cent.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from layerselect import FastSelector
from torch import Tensor, nn

from decoders import adapters_of, lora_decoder, with_own_adapters
from layouts import Turns, bootstrap_interval

VOCABULARY = 49152
TARGET = 0.01
HOOK_ROUNDS = 201
#: batch, length, rounds
SHAPES = {"8 x 128": (8, 128, 11), "2 x 64": (2, 64, 61)}


def smol() -> nn.Module:
    """SmolLM2-135M's shape: 420 adapter tensors of 4.9 million elements."""
    return lora_decoder(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=VOCABULARY,
        tie_word_embeddings=True,
    )


def observe(model: nn.Module) -> Callable[[], None]:
    return FastSelector(model, mode="observe").step


def python_hooks(model: nn.Module) -> Callable[[], None]:
    """The usual way: a hook per parameter, a number on the host in each."""
    squares: dict[int, float] = {}

    def hook(parameter: nn.Parameter) -> None:
        squares[id(parameter)] = parameter.grad.norm().item() ** 2

    for parameter in adapters_of(model):
        parameter.register_post_accumulate_grad_hook(hook)
    return lambda: None


def nothing(model: nn.Module) -> Callable[[], None]:
    return lambda: None


WAYS = {"without": nothing, "without, again": nothing, "FastSelector": observe, "Python hooks, .item()": python_hooks}


class Step:
    """A training step; ``closing`` collects the seconds of what closes it."""

    def __init__(self, model: nn.Module, attach: Callable[[nn.Module], Callable[[], None]], tokens: Tensor) -> None:
        self._model, self._tokens = model, tokens
        self._close = attach(model)
        self._optimizer = torch.optim.AdamW(adapters_of(model), lr=1e-4)
        self.closing: list[float] = []

    def __call__(self) -> None:
        self._model(input_ids=self._tokens, labels=self._tokens).loss.backward()
        start = time.perf_counter()
        self._close()
        self.closing.append(time.perf_counter() - start)
        self._optimizer.step()
        self._optimizer.zero_grad()


class Handing:
    """A backward pass that hands ready gradients to the adapters, and nothing else: what remains are the hooks.
    ``passing`` collects its seconds, without those of what closes the step."""

    def __init__(self, model: nn.Module, attach: Callable[[nn.Module], Callable[[], None]]) -> None:
        self._parameters = adapters_of(model)
        generator = torch.Generator().manual_seed(1)
        self._gradients = [torch.randn(p.shape, generator=generator) * 1e-3 for p in self._parameters]
        self._close = attach(model)
        self.passing: list[float] = []

    def __call__(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None
        start = time.perf_counter()
        torch.autograd.backward(self._parameters, self._gradients)
        self.passing.append(time.perf_counter() - start)
        self._close()


@pytest.mark.parametrize("shape", SHAPES)
def test_overhead(benchmark, shape):
    batch, length, rounds = SHAPES[shape]
    model = smol()
    tokens = torch.randint(0, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(0))
    steps = {name: Step(with_own_adapters(model), attach, tokens) for name, attach in WAYS.items()}
    turns = Turns(steps, clock=time.process_time)
    turns.measure(benchmark, rounds, threads=1)
    base = turns.median("without")
    handing = {name: Handing(with_own_adapters(model), attach) for name, attach in WAYS.items()}
    alone = Turns(handing)
    alone.measure(None, HOOK_ROUNDS, threads=1)

    print(
        f"\n{shape} tokens, one thread: a step takes {base * 1e3:.0f} ms; {rounds} rounds; in brackets intervals of "
        "95 %"
    )
    print(f"{'':24s}{'paired':>28s}{'direct':>28s}{'hooks, ms':>12s}{'step(), ms':>12s}")
    for name in list(WAYS)[1:]:
        paired = Share.of(turns.differences(name, "without"), base)
        hooks = [a - b for a, b in zip(handing[name].passing[1:], handing["without"].passing[1:], strict=True)]
        closing = steps[name].closing[1:]
        # Both parts drawn anew together: their medians add up to what the selector does in a step.
        direct = Share.of(hooks, base, closing)
        parts = [statistics.median(hooks) * 1e3, statistics.median(closing) * 1e3]
        print(f"{name:24s}{paired!s:>28s}{direct!s:>28s}{parts[0]:12.2f}{parts[1]:12.2f}")
        benchmark.extra_info[name] = {
            "paired": vars(paired),
            "direct": vars(direct),
            "hooks_ms": parts[0],
            "step_ms": parts[1],
        }
    print(f"target: below {TARGET:.0%}")


@dataclass(frozen=True)
class Share:
    """An added time as a share of a step, and the interval in which it lies."""

    share: float
    low: float
    high: float

    @classmethod
    def of(cls, added: list[float], base: float, more: list[float] | None = None) -> Share:
        """From samples of an added time, and of a second one that comes on top, both in seconds."""
        parts = [added] if more is None else [added, more]
        low, high = bootstrap_interval(parts)
        return cls(sum(map(statistics.median, parts)) / base, low / base, high / base)

    def __str__(self) -> str:
        return f"{self.share:+.2%} ({self.low:+.2%} to {self.high:+.2%})"
