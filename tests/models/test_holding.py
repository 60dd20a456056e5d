"""How weights are held: types, quantization, what stays float32, and what the machine lacks."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from layerselect import FastSelector, LayerSelectError
from layerselect.models import holding as holding_module
from layerselect.models.adapters import AdapterConfig, add_adapter
from layerselect.models.holding import Holding, check_holding, computing, holding_of, keep_holding, resolve_dtype
from layerselect.models.load import load_causal_lm, load_classifier
from layerselect.models.running import run_tokens
from layerselect.models.traits import Traits, find_traits
from layerselect.selector.savings import counted_costs
from layerselect.tasks.intent.heads import ClassifierHead
from layerselect.utils.linear_kind import elements, is_quantized

from tests.helpers import tiny_intent
from tests.models.test_traits import SMALL

QUANTIZED = [
    pytest.param(kind, marks=pytest.mark.skipif(not holding_module.is_installed("bitsandbytes"), reason="bitsandbytes"))
    for kind in ("8bit", "4bit")
]
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def classifier(folder, **how):
    torch.manual_seed(0)
    return load_classifier(folder, ["a", "b"], multi_label=False, holding=Holding(**how))


def batch(loaded):
    found = loaded.tokenizer(["The river leaves", "A fox finds the bridge"], return_tensors="pt", padding=True)
    return dict(found), torch.tensor([0, 1])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", ["lora", "dora", "bottleneck", "none"])
def test_pretrained_weights_are_as_asked_and_what_trains_beside_them_is_float32(bert_folder, dtype, kind):
    loaded = classifier(bert_folder, dtype=dtype)
    model = add_adapter(loaded, AdapterConfig(kind, rank=2, size=4, dropout=0.0))
    assert loaded.fresh == ["bert.pooler", "classifier"]
    for name, parameter in model.named_parameters():
        fresh = any(part in name for part in ("pooler", "classifier"))
        beside = any(part in name for part in ("lora_", "bottleneck_"))
        assert parameter.dtype == (torch.float32 if fresh or beside else TYPES[dtype]), name
    inputs, labels = batch(loaded)
    loss = ClassifierHead(multi_label=False).loss(model.train(), inputs, labels)
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.dtype == parameter.dtype, name
            assert torch.isfinite(parameter.grad).all(), name


def test_what_says_nothing_is_as_it_always_was(bert_folder):
    """Float32 on the CPU, without autocast, bit for bit."""
    torch.manual_seed(0)
    plain, held = load_classifier(bert_folder, ["a", "b"], multi_label=False), classifier(bert_folder)
    assert holding_of(held.model) == holding_of(plain.model) == Holding()
    for (name, one), other in zip(plain.model.named_parameters(), held.model.parameters(), strict=True):
        assert one.dtype == other.dtype == torch.float32 and torch.equal(one, other), name
    with computing(held.model):
        assert not torch.is_autocast_enabled("cpu")
    assert resolve_dtype("auto", "cpu") == "float32"


@pytest.mark.parametrize("quantize", QUANTIZED)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_linear_maps_inside_the_layers_are_quantized_and_nothing_else(bert_folder, quantize, dtype):
    plain, loaded = classifier(bert_folder), classifier(bert_folder, quantize=quantize, dtype=dtype)
    quantized = {name for name, module in loaded.model.named_modules() if is_quantized(module)}
    expected = {
        name
        for name, module in plain.model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("bert.encoder.layer.")
    }
    assert quantized == expected and expected
    assert loaded.layer_names == plain.layer_names and loaded.fresh == plain.fresh
    one, other = (
        ClassifierHead(multi_label=False).logits(each.model, batch(each)[0]).detach() for each in (plain, loaded)
    )
    assert (one - other).abs().max() < 0.2 * one.abs().max()
    if quantize == "4bit":
        weight = loaded.model.get_submodule(min(quantized)).weight
        assert weight.quant_state.quant_type == "nf4" and weight.quant_state.nested


@pytest.mark.parametrize("quantize", QUANTIZED)
@pytest.mark.parametrize("kind", ["lora", "dora", "bottleneck"])
def test_adapters_of_quantized_maps_train_and_layers_are_selected(llama_folder, quantize, kind):
    if (kind, quantize) == ("dora", "8bit"):
        pytest.skip("refused on a CPU, see tests/tasks/run/test_requirements.py")
    loaded = classifier(llama_folder, quantize=quantize)
    model = add_adapter(loaded, AdapterConfig(kind, rank=2, size=4, dropout=0.0))
    inputs, labels = batch(loaded)
    with FastSelector(model, "topk:k=1", mode="freeze", probe_every=0) as selector:
        assert selector.num_layers == 3
        optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
        selector.attach(optimizer)
        losses = []
        for _ in range(3):
            loss = ClassifierHead(multi_label=False).loss(model, inputs, labels)
            loss.backward()
            selector.step()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        assert len(selector.selected()) == 1 and losses[-1] < losses[0]


@pytest.mark.parametrize("quantize", QUANTIZED)
def test_an_evaluation_leaves_quantized_weights_as_they_are(llama_folder, quantize):
    """bitsandbytes would pack 4-bit weights anew on some CPUs, and they would give no gradients then."""
    loaded = classifier(llama_folder, quantize=quantize)
    model = add_adapter(loaded, AdapterConfig(rank=2, dropout=0.0))
    inputs, labels = batch(loaded)
    head = ClassifierHead(multi_label=False)

    def gradients():
        head.loss(model.train(), inputs, labels).backward()
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        return found

    before, packed = (
        gradients(),
        {n: p.detach().clone() for n, p in model.named_parameters() if not p.is_floating_point()},
    )
    with torch.no_grad():
        first = head.logits(model.eval(), inputs)
        again = head.logits(model, inputs)
    assert torch.equal(first, again)
    assert packed and all(torch.equal(p, packed[n]) for n, p in model.named_parameters() if n in packed)
    after = gradients()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("quantize", QUANTIZED)
def test_costs_and_counts_are_those_of_the_numbers_that_weights_stand_for(llama_folder, quantize):
    plain, loaded = classifier(llama_folder), classifier(llama_folder, quantize=quantize)
    assert sum(map(elements, loaded.model.parameters())) == sum(p.numel() for p in plain.model.parameters())
    costs = []
    for each in (plain, loaded):
        costs.append(counted_costs(add_adapter(each, AdapterConfig(rank=2))))
    assert costs[0] == costs[1]


WRITERS = {
    "llama": ("LlamaForCausalLM", {"num_key_value_heads": 1}, Traits()),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 16, "n_layer": 2, "n_head": 2}, Traits()),
    "mamba": ("MambaForCausalLM", {"state_size": 4}, Traits(continues=False)),
    "rwkv": ("RwkvForCausalLM", {"attention_hidden_size": 16}, Traits(False, False, False)),
}


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_is_not_taken_for_reading_padding(family, dtype):
    name, options, expected = WRITERS[family]
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    model = cls(cls.config_class(**{**SMALL, **options})).eval().to(TYPES[dtype])
    keep_holding(model, Holding(dtype=dtype))
    assert find_traits(model, "m", pad=0, writes=True) == expected


@pytest.mark.parametrize("quantize", QUANTIZED)
def test_an_architecture_whose_maps_are_not_quantized_is_refused(tmp_path, quantize):
    words = tiny_intent.tokenizer()
    options = {**SMALL, "vocab_size": len(words), "pad_token_id": words.pad_token_id}
    transformers.FalconForCausalLM(transformers.FalconConfig(**options)).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    with pytest.raises(
        LayerSelectError, match="transformers quantizes no linear map of .*Falcon.* use --quantize none"
    ):
        classifier(tmp_path, quantize=quantize)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_decoder_that_begins_with_padding_passes_over_it(dtype):
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 40}
    config = transformers.T5Config(**sizes, pad_token_id=0, decoder_start_token_id=0, eos_token_id=3)
    model = transformers.T5ForSequenceClassification(config).eval().to(TYPES[dtype])
    keep_holding(model, Holding(dtype=dtype))
    assert find_traits(model, "m", pad=0, writes=False).pads


@pytest.mark.parametrize("dtype", TYPES)
def test_padding_that_does_little_is_found_beside_rounding(dtype):
    """All tokens, masked ones too, move the logits by half a percent."""
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, num_key_value_heads=1)).eval()
    model.to(TYPES[dtype])
    keep_holding(model, Holding(dtype=dtype))
    assert find_traits(model, "m", pad=0, writes=True).pads

    def leak(module, args, options, output):
        tokens = module.get_input_embeddings()(options["input_ids"]).float().mean(dim=1)
        size = output.logits.float().abs().max()
        output.logits = output.logits + 0.005 * size * torch.tanh(30 * tokens.sum(dim=1))[:, None, None]
        return output

    model.register_forward_hook(leak, with_kwargs=True)
    assert not find_traits(model, "m", pad=0, writes=True).pads


@pytest.mark.parametrize("family", ["FNet", "Mixtral", "Llama"])
def test_who_reads_padding_is_told_from_who_rounds_by_what_is_in_the_batch(family):
    torch.manual_seed(0)
    options = {key: value for key, value in SMALL.items() if family != "FNet" or key != "num_attention_heads"}
    config = getattr(transformers, f"{family}Config")(**options, num_labels=4, num_key_value_heads=1)
    model = getattr(transformers, f"{family}ForSequenceClassification")(config).eval()
    assert find_traits(copy.deepcopy(model), "m", pad=0, writes=False).pads == (family != "FNet")
    for module in model.modules():
        if not isinstance(module, torch.nn.LayerNorm):  # those of FNet read what a Fourier transform gives, in float32
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.bfloat16()
    keep_holding(model, Holding(dtype="bfloat16"))
    assert find_traits(model, "m", pad=0, writes=False).pads == (family != "FNet")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"quantize": "4bit"}, "--quantize 4bit needs the package bitsandbytes, which is not installed"),
        ({"quantize": "8bit"}, "--quantize 8bit needs the package bitsandbytes"),
        ({"attention": "flash_attention_2"}, "flash-attn, which is not installed"),
    ],
)
def test_a_package_that_is_missing_is_said_before_anything_is_loaded(llama_folder, monkeypatch, how, words):
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", lambda *args, **options: pytest.fail("loads"))
    monkeypatch.setattr(holding_module, "is_installed", lambda package: False)
    with pytest.raises(LayerSelectError, match=words):
        load_causal_lm(llama_folder, holding=Holding(**how))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"attention": "flash_attention_2"}, "runs on a GPU only"),
        ({"attention": "flash_attention_2", "device": "cuda"}, "computes in 16 bits only"),
        ({"dtype": "bfloat16", "device": "cuda"}, "does not compute in bfloat16; use --dtype float16"),
    ],
)
def test_what_a_device_cannot_do_is_said(monkeypatch, how, words):
    monkeypatch.setattr(holding_module, "is_installed", lambda package: True)
    monkeypatch.setattr(holding_module, "has_bfloat16", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index=0: "an old one")
    with pytest.raises(LayerSelectError, match=words):
        check_holding(Holding(**how))


@pytest.mark.parametrize(
    ("has", "device", "found"), [(True, "cuda", "bfloat16"), (False, "cuda", "float32"), (True, "cpu", "float32")]
)
def test_auto(monkeypatch, has, device, found):
    monkeypatch.setattr(holding_module, "has_bfloat16", lambda: has)
    assert resolve_dtype("auto", device) == found
    assert resolve_dtype("float16", device) == "float16"


def test_a_model_that_does_not_fit_on_the_gpus_is_refused():
    model = torch.nn.Linear(2, 2)
    model.hf_device_map = {"": 0}
    holding_module.check_placed(model, "m")
    for place in ("cpu", "disk"):
        model.hf_device_map = {"a": 0, "b": place}
        with pytest.raises(LayerSelectError, match="m does not fit on the GPUs"):
            holding_module.check_placed(model, "m")


def test_processes_have_a_gpu_each(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert Holding(device="cuda").place == torch.device("cuda", 3)
    assert Holding().place == torch.device("cpu")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_is_as_asked(llama_folder, attention):
    assert classifier(llama_folder, attention=attention).model.config._attn_implementation == attention


def test_an_attention_that_the_architecture_lacks_is_one_sentence(tmp_path):
    words = tiny_intent.tokenizer()
    config = transformers.XLNetConfig(
        vocab_size=len(words), d_model=16, n_layer=2, n_head=2, d_inner=16, pad_token_id=0
    )
    transformers.XLNetModel(config).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    with pytest.raises(LayerSelectError, match="does not compute attention in that way .* --attention auto"):
        classifier(tmp_path, attention="sdpa")


@pytest.mark.skipif(not holding_module.is_installed("bitsandbytes"), reason="bitsandbytes")
@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
def test_a_checkpoint_that_is_quantized_already_takes_adapters_and_nothing_else(llama_folder, tmp_path, quantize):
    model = load_causal_lm(llama_folder, holding=Holding(quantize=quantize))
    model.model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(LayerSelectError, match="are quantized already: leave it out"):
        load_causal_lm(tmp_path, holding=Holding(quantize=quantize))
    with pytest.raises(LayerSelectError, match="are quantized, and no new head can be made beside them"):
        classifier(tmp_path)
    loaded = load_causal_lm(tmp_path)
    with pytest.raises(LayerSelectError, match="--adapter none: the weights of .* are quantized and cannot train"):
        add_adapter(loaded, AdapterConfig("none"))
    adapted = add_adapter(loaded, AdapterConfig(rank=2, dropout=0.0))
    ids = torch.arange(4, 12)[None]
    with torch.no_grad():
        run_tokens(adapted.eval(), ids, torch.ones_like(ids))
    run_tokens(adapted.train(), ids, torch.ones_like(ids)).logits.sum().backward()
    assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)
