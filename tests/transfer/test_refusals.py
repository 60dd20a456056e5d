"""What is not transferred: models and adapters that do not fit, and damaged files. Both values are named, nothing is
written.
"""

from itertools import combinations

import pytest
import torch
from layerselect.models.load import load_causal_lm
from layerselect.transfer import transfer_adapter
from peft import get_peft_model
from safetensors.torch import load_file, save_file

from tests.transfer.setting import KINDS, adapted, edit_json, generator, save_base


def test_another_architecture(refused, bases, predictors):
    words = ["another base model: model_type is 'llama' there and 'gpt2' in the generator"]
    refused(generator(bases["gpt2"]), predictors("llama", "lora")[0], words)


def test_another_base_model(refused, predictors, tmp_path):
    base = save_base(tmp_path / "base", "llama", hidden_size=32)
    refused(generator(base), predictors("llama", "lora")[0], ["another base model: hidden_size is 16 there and 32"])


def test_another_checkpoint(refused, bases, run):
    folder = run()
    edit_json(folder / "adapter" / "layerselect.json", fingerprint="a" * 64)
    model = generator(bases["llama"])
    words = ["another checkpoint", "a" * 16, "b" * 16]
    refused(model, folder, words, base_fingerprint="b" * 64)
    transfer_adapter(model, folder, [0], base_fingerprint="a" * 64)
    transfer_adapter(model, folder, [0])  # nobody knows


def test_a_saved_fingerprint_is_not_asked_of_predictors_without_one(bases, predictors):
    transfer_adapter(generator(bases["llama"]), predictors("llama", "lora")[0], [0], base_fingerprint="b" * 64)


@pytest.mark.parametrize(("there", "here"), [pair for a in combinations(KINDS, 2) for pair in (a, a[::-1])])
def test_another_adapter(refused, bases, predictors, there, here):
    words = [f"the adapter is {there!r} in the predictor", f"and {here!r} in the generator"]
    refused(generator(bases["llama"], here), predictors("llama", there)[0], words)


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("lora", {"rank": 3}, ["rank is 2 in", "and 3 in"]),
        ("lora", {"alpha": 5}, ["alpha is 4 in", "and 5 in"]),
        ("dora", {"rank": 3}, ["rank is 2 in", "and 3 in"]),
        ("bottleneck", {"size": 5}, ["size is 4 in", "and 5 in"]),
        ("bottleneck-parallel", {"size": 5}, ["size is 4 in", "and 5 in"]),
    ],
)
def test_another_size(refused, bases, predictors, kind, changes, words):
    refused(generator(bases["llama"], kind, **changes), predictors("llama", kind)[0], words)


@pytest.mark.parametrize(
    ("kind", "saved", "words"),
    [
        ("lora", {"use_dora": True}, ["use_dora is True in", "and False in"]),
        ("lora", {"use_rslora": True}, ["use_rslora is True in", "and False in"]),
        ("lora", {"alpha_pattern": {"q_proj": 9}}, ["alpha_pattern is {'q_proj': 9} in", "and {} in"]),
        ("bottleneck", {"placement": "parallel"}, ["placement is 'parallel' in", "and 'serial' in"]),
        ("bottleneck", {"activation": "relu"}, ["activation is 'relu' in", "and 'gelu' in"]),
    ],
)
def test_another_setting(refused, bases, run, kind, saved, words):
    folder = run(kind)
    edit_json(folder / "adapter" / "adapter_config.json", **saved)
    refused(generator(bases["llama"], kind), folder, words)


def test_other_target_modules(refused, bases, predictors):
    model = adapted(bases["llama"], target_modules={"q_proj", "k_proj"})
    words = ["target modules differ in layer 0", "mlp.down_proj.lora_A.weight", "and 7 more", "generator has nothing"]
    refused(model, predictors("llama", "lora")[0], words)


def test_target_modules_are_compared_in_layers_that_are_not_copied(refused, bases, run):
    folder = run()
    file = folder / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors["base_model.model.model.layers.2.self_attn.q_proj.lora_B.weight"]
    tensors["base_model.model.model.layers.2.self_attn.r_proj.lora_B.weight"] = torch.zeros(1)
    save_file(tensors, file)
    words = ["layer 2", "self_attn.r_proj.lora_B.weight", "self_attn.q_proj.lora_B.weight"]
    refused(generator(bases["llama"]), folder, words, layers=[0])


@pytest.mark.parametrize("kind", ["lora", "none"])
def test_other_shapes(refused, predictors, tmp_path, kind):
    """``intermediate_size`` is no part of what identifies a model."""
    base = save_base(tmp_path / "base", "llama", intermediate_size=40)
    words = ["the shape of mlp.", "in layer 0 is (", "32", "40", "in the generator"]
    refused(generator(base, kind), predictors("llama", kind)[0], words, layers=[1])


def test_another_number_of_layers(refused, bases, predictors):
    model = adapted(bases["llama"], target_modules={"q_proj"}, layers_to_transform=[0, 2])
    refused(model, predictors("llama", "lora")[0], ["number of layers", "is 3 in", "and 2 in"])


def test_fewer_layers_in_the_file(refused, bases, run):
    folder = run()
    file = folder / "adapter" / "adapter_model.safetensors"
    save_file({key: value for key, value in load_file(file).items() if ".layers.2." not in key}, file)
    refused(generator(bases["llama"]), folder, ["number of layers", "is 2 in", "and 3 in"])


def test_another_stack(refused, bases, run):
    folder = run()
    file = folder / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({key.replace(".layers.", ".blocks."): value for key, value in tensors.items()}, file)
    refused(generator(bases["llama"]), folder, ["'base_model.model.model.layers'", "nothing there ends in 'layers'"])
    twice = {
        key.replace("base_model.model.model.layers", place): value.clone()
        for key, value in tensors.items()
        for place in ("one.layers", "two.layers")
    }
    save_file(twice, file)
    refused(generator(bases["llama"]), folder, ["could be any of 'one.layers', 'two.layers'"])


@pytest.mark.parametrize("layer", [3, -1, True, 1.0, "1"])
def test_no_such_layer(refused, bases, predictors, layer):
    words = [f"layer {layer!r}", "3 layers", "0 to 2"]
    refused(generator(bases["llama"]), predictors("llama", "lora")[0], words, layers=[0, layer])


def test_another_type(refused, bases, predictors):
    model = generator(bases["llama"]).to(torch.bfloat16)
    refused(model, predictors("llama", "lora")[0], ["'torch.float32' in", "'torch.bfloat16' in"])


def test_an_adapter_of_others(refused, bases, predictors):
    from peft import IA3Config

    model = get_peft_model(
        load_causal_lm(bases["llama"]).model,
        IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"]),
    )
    refused(model, predictors("llama", "lora")[0], ["IA3Config"])


def test_damaged_files(refused, bases, run):
    folder = run()
    adapter, model = folder / "adapter", generator(bases["llama"])
    weights, meta = adapter / "adapter_model.safetensors", adapter / "layerselect.json"
    whole, good = weights.read_bytes(), meta.read_text()

    weights.write_bytes(whole[:-10])
    refused(model, folder, ["is damaged", "adapter_model.safetensors cannot be read"])
    weights.write_bytes(b"")
    refused(model, folder, ["is damaged", "adapter_model.safetensors cannot be read"])
    weights.rename(adapter / "adapter_model.bin")
    refused(model, folder, ["adapter_model.safetensors is missing, and other formats are not read"])
    weights.write_bytes(whole)

    settings = adapter / "adapter_config.json"
    right = settings.read_text()
    for text, words in (("{", "cannot be read"), ("[]", "must be an object"), (None, "is missing")):
        settings.unlink() if text is None else settings.write_text(text)
        refused(model, folder, ["is damaged", "adapter_config.json", words])
    settings.write_text(right)

    meta.write_text(good[:40])
    refused(model, folder, ["is damaged", "layerselect.json cannot be read"])
    meta.write_bytes(b"\xff\xfe")
    refused(model, folder, ["is damaged", "layerselect.json cannot be read"])
    meta.write_text("[1]")
    refused(model, folder, ["layerselect.json cannot be read", "must be an object"])
    meta.write_text(good)
    edit_json(meta, schema=9)
    refused(model, folder, ["schema 9", "reads 1"])
    edit_json(meta, schema=1, identity="llama")
    refused(model, folder, ["identity is 'llama' and must be an object"])
    meta.write_text(good)
    edit_json(meta, adapter="prompt")
    refused(model, folder, ["adapter is 'prompt' and must be one of"])
    meta.write_text(good)
    transfer_adapter(model, folder, [0])


def test_no_adapter(refused, bases, tmp_path):
    model = generator(bases["llama"])
    refused(model, tmp_path / "away", ["there is no folder", "away"])
    refused(model, bases["llama"], ["holds no adapter", "layerselect.json is missing"])
