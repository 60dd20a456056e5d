"""The small models of ``make families`` are what such folders hold, and the page says what its data say."""

from __future__ import annotations

import json

import pytest
import torch
from families import table
from families.small import OPTIONS, families, kind, save
from families.trial import TASKS
from layerselect.models.adapters import AdapterConfig, add_adapter
from layerselect.models.load import load_causal_lm
from layerselect.models.saved_adapter import load_adapted, save_adapted
from safetensors.torch import load_file
from transformers import CONFIG_MAPPING


def test_what_is_said_of_families_is_said_of_some_that_are_there():
    assert set(OPTIONS) <= set(CONFIG_MAPPING)
    assert {"bert", "llama", "t5", "mamba", "jamba", "xlnet"} <= set(families())


@pytest.mark.parametrize(
    ("family", "what"),
    [
        ("bert", "encoder"),
        ("roberta", "encoder"),
        ("qwen3", "decoder"),
        ("t5", "seq2seq"),
        ("deepseek_v3", "decoder"),
        ("rwkv", "decoder"),
    ],
)
def test_a_folder_of_a_family_is_one(tmp_path, family, what):
    made = save(family, tmp_path / "model")
    assert kind(family) == what
    assert made.config_class.model_type == family
    assert (tmp_path / "model" / "model.safetensors").stat().st_size < 3_000_000


def test_an_adapter_is_what_its_file_holds_whatever_peft_makes_of_the_names(tmp_path):
    save("laguna", tmp_path / "model")
    loaded = load_causal_lm(tmp_path / "model")
    model = add_adapter(loaded, AdapterConfig(rank=2, dropout=0.0))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    save_adapted(
        tmp_path / "adapter",
        model,
        loaded.tokenizer,
        task="intent",
        base_model=str(tmp_path / "model"),
        kind="lora",
        fingerprint="",
        more={},
    )
    meta = {"adapter": "lora", "base_model": str(tmp_path / "model"), "identity": _identity(tmp_path)}
    again = load_adapted(tmp_path / "adapter", meta, load_causal_lm)
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        assert torch.equal(model.eval()(input_ids=ids).logits, again.eval()(input_ids=ids).logits)
    assert any("shared_experts" in key for key in load_file(tmp_path / "adapter" / "adapter_model.safetensors"))


def _identity(folder):
    return json.loads((folder / "adapter" / "layerselect.json").read_text())["identity"]


def test_the_table_says_what_came_of_each():
    cell = {"result": "works", "sentence": ""}
    collected = {
        "one": {"kind": "decoder", "builds": "", "tasks": dict.fromkeys(TASKS, cell)},
        "two": {
            "kind": "encoder",
            "builds": "",
            "tasks": {**dict.fromkeys(TASKS, cell), "revise": {"result": "refused", "sentence": "no <head>"}},
        },
        "three": {"kind": "encoder", "builds": "ImportError: no timm", "tasks": {}},
    }
    text = table.tables(collected)
    assert "| one | works | works | works | works | works |" in text
    assert "| two | works | works | refused [1] | works | works |" in text
    assert "1. no &lt;head>" in text
    assert "- three: ImportError: no timm" in text
