"""The bottleneck adapter against its formula, and as one of peft's methods."""

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.models.adapters import AdapterConfig, add_adapter
from layerselect.models.bottleneck import BottleneckConfig, BottleneckLayer, residual_writers
from layerselect.models.load import load_classifier, prepare
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    OPTConfig,
    OPTForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
)

from tests.helpers import tiny_intent

KINDS = ["bottleneck", "bottleneck-parallel"]


@pytest.fixture
def loaded(bert_folder):
    return load_classifier(bert_folder, ["a", "b"], multi_label=False)


def batch_for(loaded):
    return loaded.tokenizer(["The river leaves", "A fox"], padding=True, return_tensors="pt")


def shake(model):
    """Adapters start as if they were not there; this makes them felt."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bottleneck_up" in name:
                parameter.normal_(std=0.2)


@pytest.mark.parametrize("placement", ["serial", "parallel"])
def test_formula(placement):
    torch.manual_seed(0)
    base = nn.Linear(6, 4)
    layer = BottleneckLayer(base, "default", BottleneckConfig(size=3, placement=placement, activation="relu"))
    shake(layer)
    x = torch.randn(5, 6)
    y = x @ base.weight.T + base.bias
    down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
    source = y if placement == "serial" else x
    hidden = torch.clamp(source @ down.weight.T + down.bias, min=0)
    torch.testing.assert_close(layer(x), y + hidden @ up.weight.T + up.bias)


@pytest.mark.parametrize("kind", KINDS)
def test_training_starts_from_the_base_model(loaded, kind):
    batch = batch_for(loaded)
    loaded.model.eval()
    before = loaded.model(**batch).logits
    model = add_adapter(loaded, AdapterConfig(kind, size=4)).eval()
    assert torch.equal(model(**batch).logits, before)


def test_what_trains(loaded):
    model = add_adapter(loaded, AdapterConfig("bottleneck", size=4))
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    places = {name.split(".bottleneck_")[0].split("base_model.model.")[1] for name in names if "bottleneck_" in name}
    writers = ("attention.output.dense", "output.dense")
    assert places == {f"bert.encoder.layer.{i}.{name}" for i in range(3) for name in writers}
    whole = {
        name.split("base_model.model.")[1].split(".modules_to_save")[0] for name in names if "bottleneck" not in name
    }
    assert whole == {"bert.pooler", "classifier"}


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_through_peft(loaded, bert_folder, tmp_path, kind):
    model = add_adapter(loaded, AdapterConfig(kind, size=4)).eval()
    shake(model)
    batch = batch_for(loaded)
    expected = model(**batch).logits
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    assert {key.rpartition(".")[2] for key in load_file(tmp_path / "adapter_model.safetensors")} <= {"weight", "bias"}
    fresh = load_classifier(bert_folder, ["a", "b"], multi_label=False)
    again = PeftModel.from_pretrained(fresh.model, str(tmp_path)).eval()
    assert isinstance(again.peft_config["default"], BottleneckConfig)
    assert again.peft_config["default"].placement == ("parallel" if kind.endswith("parallel") else "serial")
    assert torch.equal(again(**batch).logits, expected)


def test_disabled_it_is_the_base_model(loaded):
    batch = batch_for(loaded)
    loaded.model.eval()
    before = loaded.model.base_model(**batch).last_hidden_state
    model = add_adapter(loaded, AdapterConfig("bottleneck", size=4)).eval()
    shake(model)
    changed = model.base_model.model.base_model(**batch).last_hidden_state
    assert not torch.equal(changed, before)
    with model.disable_adapter():
        assert torch.equal(model.base_model.model.base_model(**batch).last_hidden_state, before)
    assert torch.equal(model.base_model.model.base_model(**batch).last_hidden_state, changed)


def test_merging_is_refused_with_the_reason_and_it_can_be_taken_off(loaded):
    batch = batch_for(loaded)
    loaded.model.eval()
    before = loaded.model.base_model(**batch).last_hidden_state
    targets = residual_writers(loaded.model, loaded.layer_names)
    model = get_peft_model(loaded.model, BottleneckConfig(size=4, target_modules=targets)).eval()
    shake(model)
    with pytest.raises(LayerSelectError, match="cannot be merged"):
        model.merge_and_unload()
    with pytest.raises(LayerSelectError, match="cannot be merged"):
        model.merge_adapter()
    plain = model.unload()
    assert not any(isinstance(module, BottleneckLayer) for module in plain.modules())
    assert torch.equal(plain.base_model(**batch).last_hidden_state, before)


def test_two_adapters_and_deletion(loaded):
    model = add_adapter(loaded, AdapterConfig("bottleneck", size=4)).eval()
    config = model.peft_config["default"]
    model.add_adapter("second", BottleneckConfig(size=2, target_modules=config.target_modules))
    shake(model)
    batch = batch_for(loaded)
    first = model(**batch).logits
    model.set_adapter("second")
    assert not torch.equal(model(**batch).logits, first)
    model.set_adapter("default")
    model.delete_adapter("second")
    assert torch.equal(model(**batch).logits, first)
    assert not any("second" in name for name, _ in model.named_parameters())


def test_some_layers_only(loaded):
    names = residual_writers(loaded.model, loaded.layer_names)
    targets = sorted({name.split(".", 4)[-1] for name in names})
    config = BottleneckConfig(size=2, target_modules=targets, layers_to_transform=[2])
    model = get_peft_model(loaded.model, config)
    adapted = {n.split(".bottleneck_")[0] for n, p in model.named_parameters() if "bottleneck_" in n}
    assert {name.split("layer.")[1].split(".")[0] for name in adapted} == {"2"}


def small(kind):
    if kind == "gpt2":
        return GPT2ForSequenceClassification(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=200, num_labels=2))
    if kind == "opt":
        sizes = {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 200}
        return OPTForSequenceClassification(OPTConfig(**sizes, word_embed_proj_dim=16, num_labels=2))
    sizes = {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 200, "num_labels": 2}
    return T5ForSequenceClassification(T5Config(**sizes, decoder_start_token_id=0, eos_token_id=1))


@pytest.mark.parametrize(
    ("kind", "writers"),
    [
        ("gpt2", {"attn.c_proj", "mlp.c_proj"}),
        ("opt", {"self_attn.out_proj", "fc2"}),
        (
            "t5",
            {
                "layer.0.SelfAttention.o",
                "layer.1.EncDecAttention.o",
                "layer.1.DenseReluDense.wo",
                "layer.2.DenseReluDense.wo",
            },
        ),
    ],
)
def test_the_maps_that_write_to_the_stream_are_found_by_structure(kind, writers):
    model = small(kind)
    loaded = prepare(model, tiny_intent.tokenizer(), "here", [])
    names = residual_writers(model, loaded.layer_names)
    found = {
        name.removeprefix(f"{layer}.") for layer in loaded.layer_names for name in names if name.startswith(layer + ".")
    }
    assert found == writers
    adapted = add_adapter(loaded, AdapterConfig("bottleneck", size=2))
    places = {name for name, module in adapted.named_modules() if isinstance(module, BottleneckLayer)}
    assert {place.removeprefix("base_model.model.") for place in places} == set(names)
    assert FastSelector(adapted).num_layers == len(loaded.layer_names)


def test_dora_has_magnitudes(loaded):
    model = add_adapter(loaded, AdapterConfig("dora", rank=2))
    assert isinstance(model.peft_config["default"], LoraConfig)
    magnitudes = [name for name, p in model.named_parameters() if "magnitude" in name and p.requires_grad]
    assert len(magnitudes) == 3 * 6
    assert all(".layer." in name for name in magnitudes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"size": 0}, "size=0"), ({"placement": "behind"}, "'behind'"), ({"activation": "wobble"}, "'wobble'")],
)
def test_bad_configurations(changes, message):
    with pytest.raises(LayerSelectError, match=message):
        BottleneckConfig(**changes)


def test_no_place_for_it(loaded):
    with pytest.raises(LayerSelectError, match="linear maps, and LayerNorm is none"):
        get_peft_model(loaded.model, BottleneckConfig(target_modules=["LayerNorm"]))
