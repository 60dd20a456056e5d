"""What can be changed in a model after hidden states of it were kept."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from tests.helpers.models import hugging_face
from tests.state_cache.test_same_numbers import Batch, batches

CUT = 2
Change = Callable[[nn.Module], object]


def adapted(name: str = "llama", *, cut: int = CUT, **options) -> nn.Module:
    """With two adapters that say something everywhere, of which the first is active; nothing below the cut trains."""
    return copy.deepcopy(_adapted(name, cut, tuple(options.items())))


@functools.cache
def _adapted(name: str, cut: int, further: tuple, seed: int = 0) -> nn.Module:
    options = {"r": 2, "target_modules": "all-linear", **dict(further)}
    model = get_peft_model(hugging_face(name, seed), LoraConfig(**options))
    model.add_adapter("reference", LoraConfig(**options))
    torch.manual_seed(seed + 1)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(0, 0.3)
    model.eval()
    freeze_below(model, cut)
    return model


def base(model: nn.Module) -> nn.Module:
    return model.get_base_model().model


def freeze_below(model: nn.Module, cut: int = CUT) -> None:
    for name, parameter in model.named_parameters():
        if any(f".{stack}.{number}." in name for stack in ("layers", "h", "layer", "block") for number in range(cut)):
            parameter.requires_grad_(False)


def given(name: str = "llama", padding: str = "right") -> Batch:
    return batches(name, padding)[0]


def logits(model: nn.Module, batch: Batch | None = None, **more) -> torch.Tensor:
    """Of what is no padding."""
    batch = given() if batch is None else batch
    with torch.no_grad():
        return model(**batch, **more).logits[batch["attention_mask"] != 0]


def disable(model: nn.Module) -> None:
    model.base_model.disable_adapter_layers()


def lora_layers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if hasattr(module, "scaling") and hasattr(module, "base_layer")]


def scale_in_place(model: nn.Module) -> None:
    for layer in lora_layers(model):
        layer.scaling["default"] *= 2.0


def scale_one(model: nn.Module) -> None:
    lora_layers(model)[0].set_scale("default", 3.0)


def scale_all(model: nn.Module) -> None:
    for layer in lora_layers(model):
        layer.scale_layer(0.5)


def activate_both(model: nn.Module) -> None:
    model.base_model.set_adapter(["default", "reference"])


def merge_and_unmerge(model: nn.Module) -> None:
    model.merge_adapter()
    model.unmerge_adapter()


def merge_safely(model: nn.Module) -> None:
    model.merge_adapter(safe_merge=True)


def merge_then_disable(model: nn.Module) -> None:
    model.merge_adapter()
    disable(model)


def add_a_third(model: nn.Module) -> None:
    torch.manual_seed(7)
    model.add_adapter("third", LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    model.set_adapter("third")


def delete_the_active(model: nn.Module) -> None:
    model.delete_adapter("default")
    model.set_adapter("reference")


def disable_one_layer(model: nn.Module) -> None:
    lora_layers(model)[0].enable_adapters(False)


def exchange_a_module(model: nn.Module) -> None:
    block = model.get_base_model().model.layers[0]
    torch.manual_seed(5)
    block.mlp = type(block.mlp)(model.config).eval().requires_grad_(False)


def weights_behind_torchs_back(model: nn.Module) -> None:
    model.get_base_model().model.layers[1].mlp.down_proj.base_layer.weight.data *= 1.01


def exchange_the_embedding(model: nn.Module) -> None:
    torch.manual_seed(6)
    model.get_base_model().set_input_embeddings(nn.Embedding(64, 16).requires_grad_(False))


def change_a_number(model: nn.Module) -> None:
    model.get_base_model().model.layers[0].self_attn.scaling *= 0.5


def change_an_epsilon(model: nn.Module) -> None:
    model.get_base_model().model.layers[0].input_layernorm.variance_epsilon = 0.5


def change_an_activation(model: nn.Module) -> None:
    model.get_base_model().model.layers[0].mlp.act_fn = nn.Tanh()


def change_attention(model: nn.Module) -> None:
    model.get_base_model().set_attn_implementation("eager")


def change_a_buffer(model: nn.Module) -> None:
    model.get_base_model().model.rotary_emb.inv_freq.mul_(0.5)


def change_rotary_scaling(model: nn.Module) -> None:
    model.get_base_model().model.rotary_emb.attention_scaling = 0.8


CHANGES = [
    disable,
    lambda m: m.set_adapter("reference"),
    activate_both,
    scale_in_place,
    scale_one,
    scale_all,
    merge_safely,
    lambda m: m.merge_adapter(),
    lambda m: m.merge_adapter(["reference"]),
    merge_and_unmerge,
    merge_then_disable,
    add_a_third,
    delete_the_active,
    disable_one_layer,
    exchange_a_module,
    weights_behind_torchs_back,
    exchange_the_embedding,
    change_a_number,
    change_an_epsilon,
    change_an_activation,
    change_attention,
    change_a_buffer,
    change_rotary_scaling,
]
