import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.layers.find import split_parameters
from layerselect.models.adapters import AdapterConfig, add_adapter, linear_maps
from layerselect.models.load import LoadedModel, load_classifier, prepare
from layerselect.utils.linear_kind import is_linear
from peft import PeftModel
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
)

from tests.helpers import tiny_intent


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_lora_stands_in_every_linear_map_of_the_layers_and_fresh_modules_train_whole(bert_folder):
    model = add_adapter(load_classifier(bert_folder, ["a", "b"], multi_label=False), AdapterConfig(rank=2))
    names = trainable(model)
    adapted = {name.split(".lora_")[0].split("base_model.model.")[1] for name in names if "lora_" in name}
    inside = (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    )
    assert adapted == {f"bert.encoder.layer.{i}.{name}" for i in range(3) for name in inside}
    whole = {name for name in names if "lora_" not in name}
    assert {name.split("base_model.model.")[1].split(".modules_to_save")[0] for name in whole} == {
        "bert.pooler",
        "classifier",
    }
    assert FastSelector(model).num_layers == 3


def test_the_frozen_pooler_lets_nothing_through_and_ours_is_not_frozen(bert_folder):
    """Every fresh module gets a gradient, and so do the layers below it."""
    loaded = load_classifier(bert_folder, ["a", "b"], multi_label=False)
    model = add_adapter(loaded, AdapterConfig(rank=2, dropout=0.0))
    batch = loaded.tokenizer("The river leaves", return_tensors="pt")
    model(**batch, labels=torch.tensor([1])).loss.backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_none_trains_the_layers_and_the_fresh_modules_only(bert_folder):
    loaded = load_classifier(bert_folder, ["a", "b"], multi_label=False)
    names = trainable(add_adapter(loaded, AdapterConfig("none")))
    assert names
    assert {name.split(".")[1] if name.startswith("bert") else name.split(".")[0] for name in names} == {
        "encoder",
        "pooler",
        "classifier",
    }
    assert "bert.embeddings.word_embeddings.weight" not in names


def _loaded(model):
    return prepare(model, tiny_intent.tokenizer(), "here", ["score.weight"])


def test_transposed_linear_maps_are_adapted_too():
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=200, num_labels=2)
    model = add_adapter(_loaded(GPT2ForSequenceClassification(config)), AdapterConfig(rank=2))
    adapted = {name for name in trainable(model) if "lora_A" in name}
    assert len(adapted) == 2 * 4  # c_attn, c_proj, c_fc, c_proj in each of two layers


def test_both_stacks_of_an_encoder_decoder_are_adapted():
    config = T5Config(
        d_model=16,
        d_ff=32,
        d_kv=8,
        num_layers=2,
        num_heads=2,
        vocab_size=200,
        num_labels=2,
        decoder_start_token_id=0,
        eos_token_id=1,
    )
    model = T5ForSequenceClassification(config)
    pattern = linear_maps(model, _loaded(model).layer_names)
    assert "encoder" in pattern
    assert "decoder" in pattern
    adapted = {name for name in trainable(add_adapter(_loaded(model), AdapterConfig(rank=2))) if "lora_A" in name}
    assert any(".decoder.block.1." in name for name in adapted)
    assert not any("classification_head" in name for name in adapted)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "prompt"}, "no adapter 'prompt'; the adapters are: lora, dora, bottleneck"),
        ({"rank": 0}, "rank=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_bad_settings_repeat_the_value(settings, words):
    with pytest.raises(LayerSelectError, match=words):
        AdapterConfig(**settings)


_MLA = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 40,
    "q_lora_rank": 4,
    "kv_lora_rank": 4,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 4,
    "v_head_dim": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 8,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
    "pad_token_id": 0,
}
_PHI = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 40,
    "num_local_experts": 4,
    "pad_token_id": 0,
}


def _random(name, **options):
    import transformers

    torch.manual_seed(0)
    cls = getattr(transformers, name)
    model = cls(cls.config_class(**options)).eval()
    return LoadedModel(model, None, "the model", split_parameters(model).names)


def _saved_and_loaded(model, name, options, folder):
    model.save_pretrained(folder)
    return PeftModel.from_pretrained(_random(name, **options).model, str(folder))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("DeepseekV3ForCausalLM", _MLA, "--lora-dropout is 0"),
        (
            "MambaForCausalLM",
            {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
            "maps out_proj",
        ),
        ("PhimoeForCausalLM", _PHI, ""),
    ],
)
def test_what_peft_refuses_is_asked_for_otherwise_and_trains(name, options, said, tmp_path, caplog):
    loaded = _random(name, **options)
    state = torch.random.get_rng_state()
    model = add_adapter(loaded, AdapterConfig(rank=2, dropout=0.05))
    assert said in caplog.text
    assert len(caplog.records) == bool(said)
    ids = torch.tensor([[5, 6, 7, 8]])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        again = _saved_and_loaded(model, name, options, tmp_path).eval()
        assert torch.allclose(model(input_ids=ids).logits, again(input_ids=ids).logits, atol=1e-6)
    # What is asked of peft first draws nothing.
    torch.random.set_rng_state(state)
    second = add_adapter(_random_as(name, options), AdapterConfig(rank=2, dropout=0.05))
    assert [n for n, _ in second.named_parameters()] == [n for n, _ in model.named_parameters()]


def _random_as(name, options):
    with torch.random.fork_rng(devices=[]):
        return _random(name, **options)


def test_what_cannot_be_asked_for_otherwise_is_one_sentence():
    loaded = _random("DeepseekV3ForCausalLM", **_MLA)
    with pytest.raises(
        LayerSelectError, match="peft cannot put dora into the model .*use --adapter lora or bottleneck"
    ) as caught:
        add_adapter(loaded, AdapterConfig("dora", rank=2, dropout=0.0))
    assert "\n" not in str(caught.value)
    # The model is as it was.
    assert not any("lora" in n for n, _ in loaded.model.named_parameters())


def test_a_router_that_gives_more_than_a_tensor_is_no_linear_map():
    layers = _random("PhimoeForCausalLM", **_PHI).model.model.layers
    kinds = {type(m).__name__: is_linear(m) for m in layers.modules() if isinstance(m, torch.nn.Linear)}
    assert kinds == {"Linear": True, "PhimoeTopKRouter": False}
