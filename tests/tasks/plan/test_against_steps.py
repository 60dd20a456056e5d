"""What a plan says, beside what real steps of the same models on the CPU keep and hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from layerselect import FastSelector
from layerselect.layers.find import split_parameters
from layerselect.models.adapters import AdapterConfig, add_adapter
from layerselect.models.load import LoadedModel
from layerselect.models.recomputing import recompute_layers
from layerselect.tasks.plan import PlanSettings, make_plan
from layerselect.utils.saved_activations import SavedActivations
from transformers import AutoConfig, AutoModelForSequenceClassification

BATCH, LENGTH, CLOSE = 5, 24, 0.1

_DECODER = {"intermediate_size": 96, "num_key_value_heads": 2, "vocab_size": 300, "pad_token_id": 0}
_ENCODER = {"intermediate_size": 96, "vocab_size": 300, "max_position_embeddings": 64, "pad_token_id": 0}
FAMILIES = {
    "llama": _DECODER,
    "qwen2": _DECODER,
    "phi": _DECODER,
    "bert": _ENCODER,
    "roberta": {**_ENCODER, "pad_token_id": 1},
    "gpt2": {"vocab_size": 300, "n_positions": 64, "pad_token_id": 0},
}
#: Hidden size, layers.
SIZES = ((32, 3), (48, 4))


def _configuration(folder: Path, family: str, width: int, layers: int) -> Path:
    names = (
        {"n_embd": width, "n_layer": layers, "n_head": 4}
        if family == "gpt2"
        else {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 4}
    )
    path = folder / "config.json"
    path.write_text(json.dumps({"model_type": family, **FAMILIES[family], **names}))
    return path


def _real(path: Path, adapter: str, checkpointing: str) -> torch.nn.Module:
    config = AutoConfig.from_pretrained(path, num_labels=5)
    model = AutoModelForSequenceClassification.from_config(config)
    base = model.base_model_prefix
    fresh = [name for name, part in model.named_children() if name != base and list(part.parameters())]
    loaded = LoadedModel(model, None, str(path), split_parameters(model).names, fresh)
    made = add_adapter(loaded, AdapterConfig(adapter))
    made.train()
    recompute_layers(made, checkpointing, "it")
    return made


def _step(model: torch.nn.Module) -> int:
    """What the forward pass keeps; the gradients are there afterwards. A padded batch, as most are."""
    ids = torch.randint(2, 300, (BATCH, LENGTH))
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0
    with SavedActivations([*model.parameters(), *model.buffers()]) as kept:
        loss = torch.nn.functional.cross_entropy(
            model(input_ids=ids, attention_mask=mask).logits.float(), torch.zeros(BATCH, dtype=torch.long)
        )
    loss.backward()
    return kept.bytes


def _state(model: torch.nn.Module) -> int:
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    optimizer.step()
    values = [value for state in optimizer.state.values() for value in state.values()]
    return sum(value.numel() * value.element_size() for value in values)


@pytest.mark.parametrize(("width", "layers"), SIZES)
@pytest.mark.parametrize("family", FAMILIES)
def test_saved_bytes_and_optimizer_state_are_those_of_real_steps(tmp_path, family, width, layers):
    path = _configuration(tmp_path, family, width, layers)
    plan = make_plan(PlanSettings(model=str(path), device="cpu", batch_size=BATCH, max_length=LENGTH, quantize="none"))
    for checkpointing in ("none", "nonreentrant"):
        again = checkpointing != "none"
        for way, adapter in (("all", "lora"), ("full", "none")):
            model = _real(path, adapter, checkpointing)
            row = plan.row(way, checkpointing=again)
            assert row.activations == pytest.approx(_step(model), rel=CLOSE), (way, checkpointing)
            assert row.optimizer == pytest.approx(_state(model), rel=0.01), way
            gradients = sum(p.grad.numel() * p.grad.element_size() for p in model.parameters() if p.grad is not None)
            assert row.gradients == pytest.approx(gradients, rel=0.01), way

        model = _real(path, "lora", checkpointing)
        selector = FastSelector(model, rule="upper", mode="freeze")
        half = plan.row("top-half", checkpointing=again)
        assert half.activations == pytest.approx(_step(model), rel=CLOSE), checkpointing
        assert half.optimizer == pytest.approx(_state(model), rel=0.01)
        selector.close()


def test_a_step_with_gaps_keeps_what_a_real_one_keeps(tmp_path):
    path = _configuration(tmp_path, "llama", 32, 5)
    settings = PlanSettings(
        model=str(path), device="cpu", batch_size=BATCH, max_length=LENGTH, quantize="none",
        gradient_checkpointing="none",
    )  # fmt: skip
    row = make_plan(settings).row("ir")
    model = _real(path, "lora", "none")
    selector = FastSelector(model, rule="fixed:layers=[1,3]", mode="freeze")
    whole = _step(_real(path, "lora", "none"))
    assert row.activations == pytest.approx(whole, rel=CLOSE)
    # Both peaks are made of the same moments, so what they differ by is what the step keeps less.
    assert row.peak - row.usual_peak == pytest.approx(whole - _step(model), rel=CLOSE)
    selector.close()
