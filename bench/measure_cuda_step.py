"""What FastSelector adds to, or takes from, a training step on a GPU: a bfloat16 decoder with LoRA on all linear maps.

    python bench/measure_cuda_step.py [--shape 1b] [--batch 8] [--length 512] [--rounds 31]

All ways take turns in one process and share the frozen weights; each has adapters and an optimizer of its own. *device*
is the time between two events around a step, *host* the time until the step's last call returns: where it is the
shorter one, the host is free to queue the next step. Medians; the ratio is the median of the quotients within the
rounds.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench_overhead import python_hooks
from decoders import adapters_of, lora_decoder, with_own_adapters

SHAPES = {
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "135m": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
}
VOCABULARY = 32_000


def ways(layers: int) -> dict[str, Callable[[nn.Module], Callable[[torch.optim.Optimizer], Callable[[], None]]]]:
    """By name, what is set up around a model: gets the model, then its optimizer, and gives what closes a step."""
    from layerselect import FastSelector

    def selector(rule: str, mode: str) -> Callable:
        def around(model: nn.Module) -> Callable:
            made = FastSelector(model, rule, mode=mode, probe_every=0 if mode == "freeze" else 20)

            def attach(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
                made.attach(optimizer)
                return made.step

            return attach

        return around

    top = f"fixed:layers={list(range(layers // 2, layers))}"
    return {
        "without": lambda model: lambda optimizer: lambda: None,
        "without, again": lambda model: lambda optimizer: lambda: None,
        "observe, variance": selector("variance", "observe"),
        "gate, variance": selector("variance", "gate"),
        "freeze, top half": selector(top, "freeze"),
        "Python hooks, .item()": lambda model: lambda optimizer: python_hooks(model),
    }


def step_of(model: nn.Module, around: Callable, tokens: Tensor) -> Callable[[], None]:
    adapters = adapters_of(model)  # before anything is frozen
    attach = around(model)
    optimizer = torch.optim.AdamW(adapters, lr=1e-4, fused=True)
    close = attach(optimizer)

    def step() -> None:
        model(input_ids=tokens, labels=tokens).loss.backward()
        close()
        optimizer.step()
        optimizer.zero_grad()

    return step


def timed(step: Callable[[], None]) -> tuple[float, float]:
    """(device, host) milliseconds."""
    torch.cuda.synchronize()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    before = time.perf_counter()
    start.record()
    step()
    host = time.perf_counter() - before
    end.record()
    end.synchronize()
    return start.elapsed_time(end), host * 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=31)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.stderr.write("measure_cuda_step: torch sees no CUDA device\n")
        return 2
    shape = SHAPES[options.shape]
    model = lora_decoder(**shape, vocab_size=VOCABULARY, tie_word_embeddings=True).to("cuda", torch.bfloat16)
    tokens = torch.randint(0, VOCABULARY, (options.batch, options.length), device="cuda")
    steps = {
        name: step_of(with_own_adapters(model), around, tokens)
        for name, around in ways(shape["num_hidden_layers"]).items()
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    order = random.Random(0)
    for turn in range(options.rounds + 3):
        for name in order.sample(list(steps), len(steps)):
            pair = timed(steps[name])
            if turn >= 3:
                times[name].append(pair)
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}; {options.shape}, {options.batch} x "
        f"{options.length}"
    )
    print(f"{'':24}{'device, ms':>12}{'ratio':>8}{'host, ms':>12}")
    for name, pairs in times.items():
        device, host = zip(*pairs, strict=True)
        ratio = statistics.median(d / b for d, (b, _) in zip(device, times["without"], strict=True))
        print(f"{name:24}{statistics.median(device):12.2f}{ratio:8.3f}{statistics.median(host):12.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
