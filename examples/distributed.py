"""FastSelector with several processes: DistributedDataParallel, or parameters in shards (FSDP2).

A small Llama learns to copy: the second half of every sequence repeats the first. Each process has batches of its own.
All processes measure the gradient of the whole batch and choose the same layers.

    torchrun --nproc-per-node 2 examples/distributed.py --engine ddp
    torchrun --nproc-per-node 2 examples/distributed.py --engine fsdp2
    torchrun --nproc-per-node 2 examples/distributed.py --engine ddp --mode freeze

One process for each GPU (NCCL) where there are GPUs, else on the CPU (gloo).
"""

from __future__ import annotations

import argparse
import os

import torch
import torch.distributed as dist
from layerselect import FastSelector
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaConfig, LlamaForCausalLM

CONFIG = LlamaConfig(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=8,
    num_attention_heads=4,
    num_key_value_heads=4,
    vocab_size=32,
)


def make_batch(
    generator: torch.Generator, device: torch.device, size: int = 8, half: int = 8
) -> dict[str, torch.Tensor]:
    first = torch.randint(0, 32, (size, half), generator=generator)
    tokens = torch.cat([first, first], dim=1)
    labels = tokens.clone()
    labels[:, :half] = -100  # nothing can be known about the first half
    return {"input_ids": tokens.to(device), "labels": labels.to(device)}


def distribute(model: torch.nn.Module, engine: str, mode: str) -> torch.nn.Module:
    if engine == "ddp":
        # Freezing changes which gradients come: without this, the processes would drift apart, and the selector
        # refuses.
        return DistributedDataParallel(model, find_unused_parameters=mode == "freeze")
    for layer in model.model.layers:
        fully_shard(layer)
    return fully_shard(model)


def train(engine: str, mode: str = "auto", steps: int = 100, seed: int = 0) -> tuple[list[float], FastSelector]:
    """Needs a process group; returns the losses of this process."""
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    torch.manual_seed(seed)  # the same weights in all processes
    model = distribute(LlamaForCausalLM(CONFIG).to(device), engine, mode)

    # After the model was handed to its engine: shards take the place of the parameters.
    selector = FastSelector(model, "variance", mode=mode)
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=3e-3)
    selector.attach(optimizer)

    generator = torch.Generator().manual_seed(seed + 1000 * dist.get_rank())  # other batches in each process
    losses = []
    for step in range(steps):
        loss = model(**make_batch(generator, device)).loss
        loss.backward()
        selector.step()  # the same selection in all processes
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if dist.get_rank() == 0 and (step % 20 == 0 or step == steps - 1):
            print(f"step {step:4d}  loss {losses[-1]:.3f}  trained layers {selector.selected()}")
    selector.close()
    return losses, selector


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("ddp", "fsdp2"), default="ddp", help="(default: ddp)")
    parser.add_argument("--mode", choices=("auto", "observe", "gate", "freeze"), default="auto", help="(default: auto)")
    parser.add_argument("--steps", type=int, default=100, help="(default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    arguments = parser.parse_args()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        torch.set_num_threads(1)  # too small to gain from more
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    _, selector = train(arguments.engine, arguments.mode, arguments.steps, arguments.seed)
    if dist.get_rank() == 0:
        print(f"\n{dist.get_world_size()} processes, mode {selector.mode}. How often each layer was selected:")
        for name, count in zip(selector.layer_names, selector.frequency.tolist(), strict=True):
            print(f"  {name:20s} {count:4d}  {'#' * round(40 * count / arguments.steps)}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
