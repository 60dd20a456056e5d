"""Which maps --targets means, in families that call them by other names; written by hand."""

from __future__ import annotations

import pytest
import torch
import transformers
from layerselect import LayerSelectError
from layerselect.layers.find import split_parameters
from layerselect.models.adapters import AdapterConfig, add_adapter
from layerselect.models.load import LoadedModel
from layerselect.models.targets import chosen_maps, split_targets

SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40}
#: Class, options, the maps of attention and of the feed-forward network in one layer.
FAMILIES = {
    "bert": (
        "BertForSequenceClassification",
        {},
        {"attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"},
        {"intermediate.dense", "output.dense"},
    ),
    "llama": (
        "LlamaForCausalLM",
        {"num_key_value_heads": 1, "pad_token_id": 0},
        {f"self_attn.{name}_proj" for name in "qkvo"},
        {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"},
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        {"n_embd": 16, "n_layer": 2, "n_head": 2},
        {"attn.c_attn", "attn.c_proj"},
        {"mlp.c_fc", "mlp.c_proj"},
    ),
    "opt": (
        "OPTForCausalLM",
        {"ffn_dim": 16, "word_embed_proj_dim": 16, "max_position_embeddings": 32, "pad_token_id": 0},
        {"self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj"},
        {"fc1", "fc2"},
    ),
    "distilbert": (
        "DistilBertForSequenceClassification",
        {"dim": 16, "hidden_dim": 16, "n_layers": 2, "n_heads": 2},
        {f"attention.{name}_lin" for name in ("q", "k", "v", "out")},
        {"ffn.lin1", "ffn.lin2"},
    ),
    "phi": (
        "PhiForCausalLM",
        {"pad_token_id": 0},
        {f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "dense")},
        {"mlp.fc1", "mlp.fc2"},
    ),
    "mamba": ("MambaForCausalLM", {"state_size": 4, "pad_token_id": 0}, set(), set()),
}


def made(family):
    name, options, *_ = FAMILIES[family]
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    model = cls(cls.config_class(**{**SIZES, **options})).eval()
    return model, split_parameters(model).names


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "mamba"])
def test_attention_and_mlp(family):
    model, layers = made(family)
    attention, mlp = ({f"{layer}.{name}" for layer in layers for name in names} for names in FAMILIES[family][2:])
    assert set(chosen_maps(model, layers, ["attention"])) == attention
    assert set(chosen_maps(model, layers, ["mlp"])) == mlp
    assert set(chosen_maps(model, layers, ["mlp", "attention"])) == attention | mlp
    assert set(chosen_maps(model, layers, ["all-linear"])) == attention | mlp
    for name in FAMILIES[family][2]:
        last = name.rpartition(".")[2]
        every = {each for each in attention | mlp if each.endswith("." + last)}
        assert set(chosen_maps(model, layers, [last])) == every
        assert set(chosen_maps(model, layers, [name])) == {f"{layer}.{name}" for layer in layers}


def test_what_mixes_tokens_otherwise_is_neither():
    model, layers = made("mamba")
    assert chosen_maps(model, layers, ["all-linear"])
    for group in ("attention", "mlp"):
        with pytest.raises(LayerSelectError, match=f"--targets {group} matches no .* would match: all-linear, in_proj"):
            chosen_maps(model, layers, [group])


@pytest.mark.parametrize("targets", ["qproj", "q_proj,qproj", "lm_head", "q", "attention,embed_tokens"])
def test_a_target_that_matches_nothing_lists_what_would(targets):
    model, layers = made("llama")
    with pytest.raises(LayerSelectError) as told:
        chosen_maps(model, layers, split_targets(targets))
    said = str(told.value)
    assert f"--targets {targets.split(',')[-1]} matches no linear map" in said
    assert said.endswith(
        "these would match: all-linear, attention, mlp, q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"
    )


@pytest.mark.parametrize("targets", ["", "q_proj,,v_proj", ","])
def test_an_empty_name_is_refused(targets):
    with pytest.raises(LayerSelectError, match="names nothing between two commas"):
        AdapterConfig(targets=targets)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapters_go_where_they_are_sent(kind):
    model, layers = made("llama")
    loaded = LoadedModel(model, None, "m", layers, writes=True)
    adapted = add_adapter(loaded, AdapterConfig(kind, rank=2, targets="mlp,q_proj"))
    found = {name.split(".lora_")[0].rpartition(".")[2] for name, _ in adapted.named_parameters() if "lora_" in name}
    assert found == {"gate_proj", "up_proj", "down_proj", "q_proj"}


@pytest.mark.parametrize(
    ("places", "names"), [("all", {"o_proj", "down_proj"}), ("mlp", {"down_proj"}), ("attention", {"o_proj"})]
)
def test_bottlenecks_stand_where_they_are_put(places, names):
    model, layers = made("llama")
    loaded = LoadedModel(model, None, "m", layers, writes=True)
    adapted = add_adapter(loaded, AdapterConfig("bottleneck", size=4, places=places, activation="relu"))
    found = {
        name.split(".bottleneck_")[0].rpartition(".")[2]
        for name, _ in adapted.named_parameters()
        if "bottleneck_" in name
    }
    assert found == names
    assert adapted.peft_config["default"].activation == "relu"


def test_a_part_that_holds_no_bottleneck_is_said():
    model, layers = made("mamba")
    with pytest.raises(LayerSelectError, match="--bottleneck-places mlp: no map of that part .* would do: all"):
        add_adapter(LoadedModel(model, None, "m", layers, writes=True), AdapterConfig("bottleneck", places="mlp"))


def test_an_activation_that_nobody_knows_lists_those_that_are_known():
    with pytest.raises(LayerSelectError, match="'relo' .*--bottleneck-activation.* did you mean relu"):
        AdapterConfig("bottleneck", activation="relo")
