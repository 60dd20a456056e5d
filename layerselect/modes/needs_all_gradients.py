"""What in a model reads the gradient of every trainable parameter, and so cannot do without those of unselected
layers.
"""

from __future__ import annotations

from torch import nn


def why_all_gradients(model: nn.Module) -> str | None:
    """Why ``model`` needs a gradient of every trainable parameter in every step, as the end of a sentence; None if it
    does not.

    AdaLoRA (Zhang et al. 2023, arXiv 2303.10512) weighs each adapter by its gradient after every step, and moves ranks
    from the ones to the others. It is found by structure: layers that count their ranks (``ranknum``) and train
    singular values (``lora_E``), or a method ``update_and_allocate``, as ``peft`` has them.
    """
    values = [getattr(m, "lora_E", None) for m in model.modules() if hasattr(m, "ranknum")]
    readers = [value for value in values if isinstance(value, nn.Module)]
    # Others than peft's may name their parts otherwise.
    readers = readers or [m for m in model.modules() if _allocates(m)]
    if any(p.requires_grad for reader in readers for p in reader.parameters()):
        return "AdaLoRA's update_and_allocate() reads the gradient of every adapter after each step"
    return None


def _allocates(module: nn.Module) -> bool:
    return callable(getattr(type(module), "update_and_allocate", None))
