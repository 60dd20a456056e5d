"""Adapters, in the README's loop, in modes freeze and gate."""

from __future__ import annotations

import re

from .case import BOTH, SAID, WORKS, Case

_PEFT = (
    "LoRA",
    "DoRA",
    "rsLoRA",
    "PiSSA",
    "LoRA on embeddings",
    "LoRA, modules_to_save",
    "LoRA, modules_to_save in layers",
    "LoRA, trainable tokens",
    "LoRA, two adapters",
    "LoRA of some layers",
    "LoRA, shared between layers",
    "AdaLoRA",
    "IA3",
    "LoHa",
    "LoKr",
    "OFT",
    "BOFT",
    "HRA",
    "VeRA",
    "FourierFT",
    "LN tuning",
    "Bone",
    "RandLoRA",
    "X-LoRA",
    "prefix tuning",
    "prompt tuning",
    "p-tuning",
    "Llama-Adapter",
    "QLoRA, 4 bits",
    "QLoRA, 8 bits",
)
#: Nothing that trains stands in the layers, so that there is nothing to select: an encoder of prompts, or a classifier,
#: is no stack.
_WITHOUT_LAYERS = ("prefix tuning", "prompt tuning", "p-tuning", "X-LoRA")


def cases() -> list[Case]:
    made = [_case(name) for name in _PEFT]
    for kind in ("seq_bn", "par_bn", "ia3"):
        made.append(
            Case(
                name=f"adapter-hub-{kind}",
                section="Adapters",
                program="adapter_hub",
                arguments=(kind,),
                framework="adapters",
                adapter=kind,
                environment="adapters",
                packages=("adapters", "transformers"),
                modes=BOTH,
            )
        )
    return made


def _case(name: str) -> Case:
    quantized = name.startswith("QLoRA")
    return Case(
        name="adapter-" + re.sub(r"\W+", "-", name.lower()),
        section="Adapters",
        program="peft_adapters",
        arguments=(name,),
        adapter=name,
        packages=("peft", "bitsandbytes") if quantized else ("peft",),
        environment="optimizers" if quantized else "project",
        # It reads the gradient of every adapter: freeze is refused, and auto gates.
        modes=("gate",) if name == "AdaLoRA" else BOTH,
        right=SAID if name in _WITHOUT_LAYERS else WORKS,
    )
