"""Memory of full fine-tuning by part of the model, when only a few layers train at a time (LISA, BAdam).

    python bench/memory_by_part.py --out docs/measurements/memory-by-part.json

Models of the sizes of SmolLM2-135M (embeddings tied to the head) and Pythia-160M (not tied), with random weights, in
float32 with AdamW. Every way trains 16 steps with a draw every second one; a figure is the largest that was seen over
the steps, in bytes: gradients just before the optimizer's step, its state just after. These are sums over tensors, so
they are the same on any machine. `make tables` makes the table of the documentation from the file.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from layerselect import FastSelector
from torch import nn

logger = logging.getLogger("memory_by_part")
STEPS = 16


@dataclass(frozen=True)
class Way:
    """A way of training: the rule, what becomes of the state of frozen layers, and whether the outer parts train."""

    name: str
    rule: str
    on_freeze: str = "keep"
    outer: bool = True


WAYS = (
    Way("all layers", "all"),
    Way("LISA, keep", "lisa:n=2;interval=2"),
    Way("LISA, reset", "lisa:n=2;interval=2", "reset"),
    Way("BAdam, reset", "block-cyclic:interval=2", "reset"),
    Way("BAdam, layers only", "block-cyclic:interval=2", "reset", outer=False),
)


def smollm2_135m() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=True))


def pythia_160m() -> nn.Module:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    return GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, vocab_size=50304, tie_word_embeddings=False))


MODELS = {"SmolLM2-135M": smollm2_135m, "Pythia-160M": pythia_160m}


def measured(model: nn.Module, way: Way) -> dict[str, dict[str, int]]:
    """By part: parameters, weights, and the largest gradients and optimizer state over the steps."""
    layers = {id(p) for name, p in model.named_parameters() if ".layers." in name}
    for parameter in model.parameters():
        parameter.requires_grad_(way.outer or id(parameter) in layers)
    largest: dict[str, dict[str, int]] = {}
    tokens = torch.randint(0, 1000, (1, 16))
    settings: dict[str, Any] = {"mode": "freeze", "on_freeze": way.on_freeze, "probe_every": 0}
    with FastSelector(model, way.rule, **settings) as selector:
        optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-6)
        selector.attach(optimizer)
        for _ in range(STEPS):
            model(input_ids=tokens, labels=tokens).loss.backward()
            selector.step()
            before = selector.memory_by_part()
            optimizer.step()
            for row, after in zip(before, selector.memory_by_part(), strict=True):
                known = largest.setdefault(row.part, {"parameters": row.parameters, "weights": row.weights})
                known["gradients"] = max(known.get("gradients", 0), row.gradients)
                known["optimizer"] = max(known.get("optimizer", 0), after.optimizer)
            optimizer.zero_grad()
    return largest


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("memory-by-part.json"))
    out = parser.parse_args().out
    torch.manual_seed(0)
    rows = []
    for name, make in MODELS.items():
        for way in WAYS:
            rows.append({"model": name, "way": way.name, "parts": measured(make(), way)})
            logger.info("%s, %s: %s", name, way.name, rows[-1]["parts"])
    aside = out.with_name(out.name + ".new")
    aside.write_text(json.dumps({"steps": STEPS, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    aside.replace(out)


if __name__ == "__main__":
    main()
