"""Hidden states belong to how a model is held: its type, quantization and attention. Not to gradient checkpointing."""

from __future__ import annotations

import pytest
import torch
from layerselect.models.adapters import AdapterConfig, add_adapter
from layerselect.models.holding import Holding, is_installed
from layerselect.models.load import load_causal_lm
from layerselect.models.recomputing import recompute_layers
from layerselect.models.running import run_tokens
from layerselect.state_cache import StateCache, StateStore

CUT = 2
HELD = [
    {},
    {"dtype": "bfloat16"},
    {"dtype": "float16"},
    {"attention": "eager"},
    *(
        [{"quantize": "4bit"}, {"quantize": "8bit"}, {"quantize": "4bit", "dtype": "bfloat16"}]
        * is_installed("bitsandbytes")
    ),
]


def adapted(folder, how):
    torch.manual_seed(0)
    loaded = load_causal_lm(folder, holding=Holding(**how))
    model = add_adapter(loaded, AdapterConfig(rank=2, dropout=0.0))
    blocks = [model.get_submodule(f"base_model.model.{name}") for name in loaded.layer_names]
    for block in blocks[:CUT]:
        block.requires_grad_(False)
    return model


def states(model, store):
    """Logits of two passes, and how many examples were computed and read."""
    ids = torch.arange(4, 20).reshape(2, 8)
    with torch.no_grad(), StateCache(model, CUT, store) as cache:
        logits = [run_tokens(model, ids, torch.ones_like(ids)).logits for _ in range(2)]
        assert torch.equal(*logits)
        return logits[0], cache.filled, cache.read


def test_each_way_has_states_of_its_own_and_finds_them_again(llama_folder, tmp_path):
    with StateStore(tmp_path) as store:
        first = []
        for how in HELD:
            logits, filled, read = states(adapted(llama_folder, how), store)
            assert (filled, read) == (2, 2), how
            first.append(logits)
        for how, expected in zip(HELD, first, strict=True):
            model = adapted(llama_folder, how)
            recompute_layers(model, "nonreentrant", "m")
            ids = torch.arange(4, 12)[None]
            run_tokens(model.train(), ids, torch.ones_like(ids)).logits.float().sum().backward()
            logits, filled, read = states(model.eval(), store)
            assert (filled, read) == (0, 4), how
            assert torch.equal(logits, expected), how


@pytest.mark.skipif(not is_installed("bitsandbytes"), reason="bitsandbytes is not installed")
@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
def test_what_quantized_numbers_are_multiplied_by_counts(llama_folder, tmp_path, quantize):
    """In 8 bits a weight of twice the size has the same numbers and other scales."""
    with StateStore(tmp_path) as store:
        expected, *_ = states(adapted(llama_folder, {"quantize": quantize}), store)
        model = adapted(llama_folder, {"quantize": quantize})
        layer = model.base_model.model.model.layers[0].mlp.down_proj.base_layer
        if quantize == "8bit":
            layer.state.SCB.mul_(2.0)
        else:
            layer.weight.quant_state.offset.mul_(2.0)
        logits, filled, read = states(model, store)
        assert (filled, read) == (2, 2)
        assert not torch.equal(logits, expected)
