"""FastSelector in a hand-written training loop.

A small Llama learns to copy: the second half of every sequence repeats the first. The selector watches the
gradients, trains the layers whose gradients stand out and freezes the rest until they are needed.

    python examples/plain_loop.py --steps 200
"""

from __future__ import annotations

import argparse

import torch
from layerselect import FastSelector, VarianceSplit
from transformers import LlamaConfig, LlamaForCausalLM


def make_model() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=8,
            num_attention_heads=4,
            num_key_value_heads=4,
            vocab_size=32,
        )
    )


def make_batch(generator: torch.Generator, batch_size: int = 16, half: int = 8) -> dict[str, torch.Tensor]:
    first = torch.randint(0, 32, (batch_size, half), generator=generator)
    tokens = torch.cat([first, first], dim=1)
    labels = tokens.clone()
    labels[:, :half] = -100  # nothing can be known about the first half
    return {"input_ids": tokens, "labels": labels}


def train(steps: int = 200, seed: int = 0) -> tuple[list[float], FastSelector]:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = make_model()

    selector = FastSelector(model, VarianceSplit(), probe_every=10)
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=3e-3)
    selector.attach(optimizer)  # unselected layers keep their weights and their optimizer state

    losses = []
    for step in range(steps):
        loss = model(**make_batch(generator)).loss
        loss.backward()  # the scores are computed in here
        selector.step()  # which layers does this step train?
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 20 == 0 or step == steps - 1:
            print(f"step {step:4d}  loss {losses[-1]:.3f}  trained layers {selector.selected()}")
    selector.close()
    return losses, selector


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    _, selector = train(arguments.steps, arguments.seed)
    print("\nHow often each layer was selected:")
    for name, count in zip(selector.layer_names, selector.frequency.tolist(), strict=True):
        print(f"  {name:20s} {count:4d}  {'#' * round(40 * count / arguments.steps)}")


if __name__ == "__main__":
    main()
