"""What freezing saves: step time and saved-activation bytes on a 12-layer decoder with LoRA, as ratios.

    python -m pytest bench/bench_training_step.py --benchmark-only --benchmark-enable -s

The selections take turns within each round, in an order drawn anew, so that whatever else the machine does weighs on all of
them alike; a ratio is the median of the quotients within the rounds.
"""

from __future__ import annotations

import random
import statistics
import time

import torch
from layerselect import FastSelector
from layerselect.profiling import saved_activation_bytes

LAYERS = 12
ROUNDS = 9
SELECTIONS = {
    "all layers": list(range(LAYERS)),
    "top half": list(range(6, 12)),
    "bottom half": list(range(6)),
    "random half": [0, 2, 5, 7, 8, 11],
    "top two": [10, 11],
}


def decoder() -> torch.nn.Module:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=LAYERS,
        num_attention_heads=6,
        num_key_value_heads=6,
        vocab_size=2048,
    )
    return get_peft_model(LlamaForCausalLM(config), LoraConfig(r=16, target_modules="all-linear"))


def test_training_step(benchmark):
    torch.set_num_threads(1)
    model = decoder()
    tokens = torch.randint(0, 2048, (4, 128), generator=torch.Generator().manual_seed(0))

    def loss() -> torch.Tensor:
        return model(input_ids=tokens, labels=tokens).loss

    seconds: dict[str, list[float]] = {name: [] for name in SELECTIONS}
    saved: dict[str, int] = {}

    order = random.Random(0)

    def one_round() -> None:
        for name in order.sample(list(SELECTIONS), len(SELECTIONS)):
            with FastSelector(model, f"fixed:layers={SELECTIONS[name]}", mode="freeze") as selector:
                optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-4)
                selector.attach(optimizer)
                saved.setdefault(name, saved_activation_bytes(model, loss))
                start = time.perf_counter()
                loss().backward()
                selector.step()
                optimizer.step()
                optimizer.zero_grad()
                seconds[name].append(time.perf_counter() - start)

    benchmark.pedantic(one_round, rounds=ROUNDS, warmup_rounds=1)
    median = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    print("\nselection        step (s)   ratio   saved MB   ratio")
    for name in SELECTIONS:
        rounds = zip(seconds[name][1:], seconds["all layers"][1:], strict=True)
        ratio = statistics.median(mine / everything for mine, everything in rounds)
        bytes_ratio = saved[name] / saved["all layers"]
        print(f"{name:14s} {median[name]:10.3f} {ratio:7.2f} {saved[name] / 1e6:10.1f} {bytes_ratio:7.2f}")
        benchmark.extra_info[name] = {"step_ratio": ratio, "saved_ratio": bytes_ratio}
    assert saved["top half"] <= 0.55 * saved["all layers"]
