"""Where should adapters go? A Layer Card says so before they are trained, and peft puts them there.

A small Llama has learned to repeat the first half of a sequence. Its new task is to repeat it with every token's
successor instead. A card is measured on a few batches of the new task; LoRA then trains in the layers that it proposes.

    python examples/layer_card.py --layers 2 --steps 100
"""

from __future__ import annotations

import argparse

import torch
from layerselect.card import LayerCard, measure
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY, HALF = 32, 8
#: peft wants names here where layers are given.
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_batch(generator: torch.Generator, shift: int, examples: int = 16) -> dict[str, Tensor]:
    first = torch.randint(0, VOCABULARY, (examples, HALF), generator=generator)
    tokens = torch.cat([first, (first + shift) % VOCABULARY], dim=1)
    labels = tokens.clone()
    labels[:, :HALF] = -100  # nothing can be known about the first half
    return {"input_ids": tokens, "labels": labels}


def train(model: nn.Module, generator: torch.Generator, shift: int, steps: int, lr: float) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses = []
    for _ in range(steps):
        loss = model(**make_batch(generator, shift)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def main(
    layers: int = 2, steps: int = 100, known_steps: int = 400, seed: int = 0
) -> tuple[LayerCard, nn.Module, list[float]]:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            vocab_size=VOCABULARY,
        )
    )
    train(model, generator, shift=0, steps=known_steps, lr=3e-3)  # what it knows before

    # Two thirds of the batches are measured on; the rest is held out to see whether what was found holds.
    card = measure(model, [make_batch(generator, shift=1) for _ in range(24)])
    for number, layer in enumerate(card.layers):
        print(f"layer {number}: fresh resnorm {layer.fresh:6.3f} ({layer.low:6.3f} to {layer.high:6.3f})")
    chosen = card.place(k=layers)
    print(f"adapters go into the layers {chosen}")

    adapted = get_peft_model(
        model, LoraConfig(r=16, target_modules=TARGETS, layers_to_transform=chosen, task_type="CAUSAL_LM")
    )
    losses = train(adapted, generator, shift=1, steps=steps, lr=5e-3)
    print(f"loss on the new task: {losses[0]:.3f}, after {steps} steps {losses[-1]:.3f}")
    return card, adapted, losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2, help="at most so many with adapters (default: 2)")
    parser.add_argument("--steps", type=int, default=100, help="of the new task (default: 100)")
    args = parser.parse_args()
    torch.set_num_threads(1)  # too small to gain from more
    main(args.layers, args.steps)
