"""What cached hidden states save on a GPU: a step after the first epoch of a bfloat16 decoder with LoRA on all linear
maps.

    python bench/measure_cuda_cache.py [--shape 1b] [--batch 8] [--length 512] [--rounds 21]

Training all layers, and the upper half, quarter and eighth by freezing alone and with cached states, which are copied
ahead (``StateCache.ahead``). All take turns in one process. *Step* is the time on the host's clock from one step's end
to the next over a few steps in a row, as a training sees it, device included. Ratios are medians of the quotients
within the rounds. Also the arithmetic by which ``state_cache="auto"`` decides.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import sys
import time
from collections.abc import Iterator

import torch
from layerselect import FastSelector
from layerselect.state_cache.worth_caching import link_bandwidth, matrix_rate
from torch import nn

from decoders import lora_decoder, with_own_adapters
from measure_cuda_step import SHAPES, VOCABULARY

_STEPS = 4  # in a row


class Way:
    """One way to train, over the same batches again and again."""

    def __init__(self, model: nn.Module, batches: list[dict], cut: int, layers: int, state_cache: str) -> None:
        options = {"state_cache": state_cache, "cut": cut} if state_cache != "none" else {}
        self._model = model
        rule = f"fixed:layers={list(range(cut, layers))}"
        self.selector = FastSelector(model, rule, mode="freeze", probe_every=0, **options)
        optimizer = torch.optim.AdamW(self.selector.trainable_parameters(), lr=1e-4, fused=True)
        self.selector.attach(optimizer)
        self._optimizer = optimizer
        given = itertools.cycle(batches)
        kept = self.selector.state_cache
        self._batches: Iterator[dict] = iter(given) if kept is None else kept.ahead(given)
        for _ in range(len(batches) + 2):
            self.step()

    def step(self) -> None:
        batch = next(self._batches)
        tokens = batch["input_ids"].to("cuda", non_blocking=True)
        self._model(**{**batch, "input_ids": tokens, "labels": tokens}).loss.backward()
        self.selector.step()
        self._optimizer.step()
        self._optimizer.zero_grad()

    def timed(self) -> float:
        """Milliseconds a step."""
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(_STEPS):
            self.step()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) * 1e3 / _STEPS


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.stderr.write("measure_cuda_cache: torch sees no CUDA device\n")
        return 2
    shape = SHAPES[options.shape]
    layers = shape["num_hidden_layers"]
    model = lora_decoder(**shape, vocab_size=VOCABULARY, tie_word_embeddings=True).to("cuda", torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    batches = [
        {"input_ids": torch.randint(0, VOCABULARY, (options.batch, options.length), generator=generator).pin_memory()}
        for _ in range(4)
    ]
    cuts = {"top half": layers // 2, "top quarter": layers - layers // 4, "top eighth": layers - layers // 8}
    ways = {"all layers": Way(with_own_adapters(model), batches, 0, layers, "none")}
    for name, cut in cuts.items():
        for state_cache in ("none", "cached"):
            ways[f"{name}, {state_cache}"] = Way(with_own_adapters(model), batches, cut, layers, state_cache)
    times: dict[str, list[float]] = {name: [] for name in ways}
    order = random.Random(0)
    for _ in range(options.rounds):
        for name in order.sample(list(ways), len(ways)):
            times[name].append(ways[name].timed())

    device = torch.device("cuda")
    link, rate = link_bandwidth(device), matrix_rate(device, torch.bfloat16)
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}; {options.shape}, {options.batch} x "
        f"{options.length}"
    )
    print(
        f"link {link / 1e9:.1f} GB/s, product {rate / 1e12:.0f} TFLOP/s; all layers: "
        f"{statistics.median(times['all layers']):.2f} ms"
    )
    width = 2 * shape["hidden_size"]
    for name, cut in cuts.items():
        line = f"{name:12}"
        for state_cache in ("none", "cached"):
            pairs = zip(times[f"{name}, {state_cache}"], times["all layers"], strict=True)
            line += f"{state_cache:>8} {statistics.median(a / b for a, b in pairs):.3f}"
        below = sum(p.numel() for n, p in model.named_parameters() if any(f".layers.{i}." in n for i in range(cut)))
        read, computed = width / link, 2.0 * below / (0.5 * rate)
        print(f"{line}   read {read * 1e9:.0f} ns a token, compute {computed * 1e9:.0f} ns")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
