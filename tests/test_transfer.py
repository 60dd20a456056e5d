"""Intention-Tuning's second step, proved on weights: what is copied, what stays, what is refused."""

import copy
import json
import re
import shutil
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from layerselect import CostAware, FastSelector, Fixed, LayerSelectError, Threshold, TopK, VarianceSplit
from layerselect.tasks.adapters import AdapterConfig, add_adapter, peft_config
from layerselect.tasks.formats import InputFormat
from layerselect.tasks.intent import Encoder, save_adapter
from layerselect.tasks.models import load_classifier, load_writer, prepare
from layerselect.tasks.run_folder import importance
from layerselect.transfer import (
    Importance,
    Transfer,
    alignment_ratio,
    base_fingerprint,
    own_frequency,
    pick_layers,
    read_importance,
    transfer_adapter,
)
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    T5ForSequenceClassification,
)

from tests import tiny_intent
from tests.models import plain, plain_loss

KINDS = ["lora", "dora", "bottleneck", "bottleneck-parallel", "none"]
ARCHITECTURES = ["llama", "gpt2"]
LABELS = ["a", "b"]
SHARED = [0, 2]
#: Container, number, and name inside the layer.
_IN_LAYER = re.compile(r"(?:.*\.)?(layers|h|layer)\.(\d+)\.(.+)")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A folder for each architecture: three layers, random weights."""
    return {name: save_base(tmp_path_factory.mktemp(name), name) for name in ARCHITECTURES}


def save_base(folder, architecture, seed=0, **changes):
    words = tiny_intent.tokenizer()
    torch.manual_seed(seed)
    if architecture == "llama":
        settings = {
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
            "num_key_value_heads": 1, "vocab_size": len(words),
        }  # fmt: skip
        model = LlamaForCausalLM(LlamaConfig(**{**settings, **changes}))
    else:
        settings = {"n_embd": 16, "n_layer": 3, "n_head": 2, "vocab_size": len(words)}
        model = GPT2LMHeadModel(GPT2Config(**{**settings, **changes}))
    model.save_pretrained(folder)
    words.eos_token = words.sep_token
    words.save_pretrained(folder)
    return folder


def config(kind, **changes):
    return AdapterConfig(kind, **{"rank": 2, "alpha": 4, "size": 4, "dropout": 0.0, **changes})


def in_layers(named):
    """(layer, name inside it) -> a copy, for what stands inside layers."""
    return {
        (int(match[2]), match[3]): value.detach().clone()
        for name, value in named
        if (match := _IN_LAYER.fullmatch(name))
    }


def tokens(seed):
    return torch.randint(5, 60, (2, 9), generator=torch.Generator().manual_seed(seed))


def save_run(folder, loaded, model, kind, **meta):
    encoder = Encoder(loaded.tokenizer, InputFormat("edits"), LABELS, 64, loaded.separator)
    save_adapter(folder / "adapter", model, encoder, base_model=loaded.source, kind=kind, multi_label=False)
    edit_json(folder / "adapter" / "layerselect.json", **meta)
    return folder


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture(scope="module")
def predictors(bases, tmp_path_factory):
    """Trained predictors by architecture and kind: the run's folder, and the parameters in its layers. Trained once, not changed."""
    made = {}

    def make(architecture, kind):
        if (architecture, kind) not in made:
            torch.manual_seed(1)
            loaded = load_classifier(bases[architecture], LABELS, multi_label=False)
            model = add_adapter(loaded, config(kind)).train()
            start = in_layers((n, p) for n, p in model.named_parameters() if p.requires_grad)
            optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
            for step in range(3):
                model(input_ids=tokens(step), labels=torch.tensor([0, 1])).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            end = in_layers(model.named_parameters())
            assert all(not torch.equal(start[key], end[key]) for key in start)
            folder = save_run(tmp_path_factory.mktemp("run"), loaded, model, kind)
            made[architecture, kind] = folder, {key: end[key] for key in start}
        return made[architecture, kind]

    return make


def generator(base, kind="lora", seed=2, **changes):
    torch.manual_seed(seed)
    return add_adapter(load_writer(base), config(kind, **changes))


def everything(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def layer_of(name):
    match = _IN_LAYER.fullmatch(name)
    return int(match[2]) if match else None


# ---------------------------------------------------------------------- the copy


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_shared_layers_start_as_the_predictor_ended_and_the_rest_afresh(bases, predictors, architecture, kind):
    folder, ended = predictors(architecture, kind)
    model = generator(bases[architecture], kind)
    before = everything(model)
    copied = transfer_adapter(model, folder, SHARED)

    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    now = in_layers(trained.items())
    assert now.keys() == ended.keys()
    for layer, name in now:
        assert torch.equal(now[layer, name], ended[layer, name]) == (layer in SHARED), (layer, name)
    after = everything(model)
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert {layer_of(name) for name in moved} == set(SHARED)
    assert moved <= trained.keys()
    shared = [value for (layer, _), value in ended.items() if layer in SHARED]
    assert copied == Transfer(SHARED, len(shared), sum(value.numel() for value in shared))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_frozen_layers_do_not_move_and_shared_ones_do(bases, predictors, architecture, kind):
    folder, ended = predictors(architecture, kind)
    model = generator(bases[architecture], kind).train()
    transfer_adapter(model, folder, SHARED)
    before = everything(model)
    selector = FastSelector(model, Fixed(SHARED, probe=True), mode="freeze", probe_every=2)
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2, weight_decay=0.1)
    selector.attach(optimizer)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {layer_of(name) for name in trained} == {0, 1, 2}  # the first step measures all
    for step in range(5):
        model(input_ids=tokens(step), labels=tokens(step)).loss.backward()
        selector.step()
        optimizer.step()
        optimizer.zero_grad()
    after = everything(model)
    for name in after:
        moves = name in trained and layer_of(name) in SHARED
        assert torch.equal(before[name], after[name]) != moves, name
    rows = selector.history.arrays()
    assert rows["trained"].all(axis=1).tolist() == [True, False, True, False, True]
    frequency, steps = own_frequency(rows, "topk:k=1")
    assert steps == 3
    assert frequency.sum() == 3
    assert len(ended)


@pytest.mark.parametrize("kind", KINDS)
def test_all_layers_none_and_the_order_of_the_numbers(bases, predictors, kind):
    folder, ended = predictors("llama", kind)
    model = generator(bases["llama"], kind)
    before = everything(model)
    assert transfer_adapter(model, folder, []) == Transfer([], 0, 0)
    assert same(everything(model), before)
    assert transfer_adapter(model, folder / "adapter", [2, 0, 1, 2]).layers == [0, 1, 2]
    assert same(in_layers((n, p) for n, p in model.named_parameters() if p.requires_grad), ended)


def test_heads_are_not_copied_even_where_they_would_fit(bases, predictors):
    folder, _ = predictors("llama", "lora")
    torch.manual_seed(5)
    model = add_adapter(load_classifier(bases["llama"], LABELS, multi_label=False), config("lora"))
    before = everything(model)
    assert any("score" in name for name in load_file(folder / "adapter" / "adapter_model.safetensors"))
    transfer_adapter(model, folder, [0, 1, 2])
    after = everything(model)
    heads = [name for name in after if "score" in name]
    assert heads
    assert all(torch.equal(before[name], after[name]) for name in after if layer_of(name) is None)


def test_another_name_around_the_layers(bert_folder, tmp_path):
    """``bert.encoder.layer`` in the classifier, ``encoder.layer`` in the model without a head."""
    loaded = load_classifier(bert_folder, LABELS, multi_label=False)
    predictor = add_adapter(loaded, config("lora"))
    shake(predictor, seed=3)
    save_run(tmp_path, loaded, predictor, "lora")
    bare = prepare(BertModel.from_pretrained(bert_folder), tiny_intent.tokenizer(), "here", [])
    model = add_adapter(bare, config("lora"))
    assert not any(".bert." in name for name, _ in model.named_parameters())
    transfer_adapter(model, tmp_path, [1])
    now = in_layers((n, p) for n, p in model.named_parameters() if "lora" in n)
    ended = in_layers((n, p) for n, p in predictor.named_parameters() if "lora" in n)
    assert len(now) == len(ended) == 3 * 6 * 2
    assert all(torch.equal(now[key], ended[key]) == (key[0] == 1) for key in now)


def shake(model, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)


def test_two_stacks_keep_apart(tmp_path):
    """The layers of an encoder-decoder are numbered through: the decoder's come after the encoder's."""
    sizes = {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 200}
    settings = T5Config(**sizes, decoder_start_token_id=0, eos_token_id=1, num_labels=2)
    loaded = prepare(T5ForSequenceClassification(settings), tiny_intent.tokenizer(), "there", [])
    predictor = add_adapter(loaded, config("lora"))
    shake(predictor, seed=3)
    save_run(tmp_path, loaded, predictor, "lora")
    model = add_adapter(
        prepare(T5ForConditionalGeneration(settings), tiny_intent.tokenizer(), "here", []), config("lora")
    )
    shake(model, seed=4)
    transfer_adapter(model, tmp_path, [1, 2])
    ended = {n.replace("transformer.", ""): p for n, p in predictor.named_parameters() if "lora" in n}
    adapted = {n: p for n, p in model.named_parameters() if "lora" in n}
    assert adapted.keys() == ended.keys()
    fit = {name for name in adapted if torch.equal(adapted[name], ended[name])}
    assert {re.search(r"(encoder|decoder)\.block\.\d", name)[0] for name in fit} == {
        "encoder.block.1",
        "decoder.block.0",
    }
    assert fit == {name for name in adapted if "encoder.block.1" in name or "decoder.block.0" in name}


def test_a_whole_model_in_shards(bases, predictors, tmp_path):
    folder, ended = predictors("gpt2", "none")
    shutil.copytree(folder, tmp_path / "run")
    adapter = tmp_path / "run" / "adapter"
    tensors = load_file(adapter / "model.safetensors")
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, keys in shards.items():
        save_file({key: tensors[key] for key in keys}, adapter / file)
    index = {"weight_map": {key: file for file, keys in shards.items() for key in keys}}
    (adapter / "model.safetensors.index.json").write_text(json.dumps(index))
    (adapter / "model.safetensors").unlink()
    model = generator(bases["gpt2"], "none")
    transfer_adapter(model, tmp_path / "run", [1])
    now = in_layers((n, p) for n, p in model.named_parameters() if p.requires_grad)
    assert all(torch.equal(now[key], ended[key]) == (key[0] == 1) for key in now)

    (adapter / "model-2.safetensors").unlink()
    with pytest.raises(LayerSelectError, match=r"model-2.safetensors is missing"):
        transfer_adapter(model, tmp_path / "run", [1])
    index["weight_map"][names[0]] = "../model-1.safetensors"
    (adapter / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LayerSelectError, match="names no files"):
        transfer_adapter(model, tmp_path / "run", [1])


def test_dropout_may_differ(bases, predictors):
    folder, _ = predictors("llama", "lora")
    assert transfer_adapter(generator(bases["llama"], dropout=0.3), folder, [1]).layers == [1]


# ---------------------------------------------------------------------- what is refused


@pytest.fixture
def refused(bases):
    """Checks that a transfer is refused with these words, and that it wrote nothing."""

    def check(model, folder, words, layers=(0, 1), **options):
        before = everything(model)
        with pytest.raises(LayerSelectError) as caught:
            transfer_adapter(model, folder, layers, **options)
        message = str(caught.value)
        assert "\n" not in message
        for word in words:
            assert word in message
        assert same(everything(model), before)

    return check


@pytest.fixture
def run(predictors, tmp_path):
    """A copy of a predictor's run, to be damaged."""

    def make(kind="lora", architecture="llama"):
        return shutil.copytree(predictors(architecture, kind)[0], tmp_path / "run")

    return make


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


def adapted(base, **changes):
    """A generator with LoRA elsewhere."""
    loaded = load_writer(base)
    settings = peft_config(loaded, config("lora"))
    for key, value in changes.items():
        setattr(settings, key, value)
    return get_peft_model(loaded.model, settings)


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
        load_writer(bases["llama"]).model,
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
    for text, words in (("{", "cannot be read"), ("[]", "holds no settings"), (None, "is missing")):
        settings.unlink() if text is None else settings.write_text(text)
        refused(model, folder, ["is damaged", "adapter_config.json", words])
    settings.write_text(right)

    meta.write_text(good[:40])
    refused(model, folder, ["is damaged", "layerselect.json cannot be read"])
    meta.write_bytes(b"\xff\xfe")
    refused(model, folder, ["is damaged", "layerselect.json cannot be read"])
    meta.write_text("[1]")
    refused(model, folder, ["schema None", "reads 1"])
    meta.write_text(good)
    edit_json(meta, schema=9)
    refused(model, folder, ["schema 9", "reads 1"])
    edit_json(meta, schema=1, identity="llama")
    refused(model, folder, ["names no adapter or no base model"])
    meta.write_text(good)
    edit_json(meta, adapter="prompt")
    refused(model, folder, ["names no adapter or no base model"])
    meta.write_text(good)
    transfer_adapter(model, folder, [0])


def test_no_adapter(refused, bases, tmp_path):
    model = generator(bases["llama"])
    refused(model, tmp_path / "away", ["there is no folder", "away"])
    refused(model, bases["llama"], ["holds no adapter", "layerselect.json is missing"])


# ---------------------------------------------------------------------- fingerprints


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_checkpoint_has_one_fingerprint_whatever_its_head(bases, architecture, tmp_path):
    classifier = load_classifier(bases[architecture], LABELS, multi_label=False)
    writer = load_writer(bases[architecture])
    mark = base_fingerprint(writer.model, writer.layer_names)
    assert re.fullmatch("[0-9a-f]{64}", mark)
    assert base_fingerprint(classifier.model, classifier.layer_names) == mark
    other = load_writer(save_base(tmp_path / "other", architecture, seed=9))
    assert base_fingerprint(other.model, other.layer_names) != mark


def test_what_changes_a_fingerprint(bases):
    writer = load_writer(bases["llama"])
    names = writer.layer_names
    mark = base_fingerprint(writer.model, names)
    assert base_fingerprint(writer.model, names[::-1]) != mark
    assert base_fingerprint(writer.model, names[:2]) != mark
    weight = writer.model.get_submodule(names[1]).mlp.up_proj.weight
    with torch.no_grad():
        weight[3, 5] += 1e-3  # every element of a small tensor counts
    assert base_fingerprint(writer.model, names) != mark
    assert base_fingerprint(writer.model.to(torch.bfloat16), names) != mark
    add_adapter(replace(writer), config("lora"))
    with pytest.raises(LayerSelectError, match="holds an adapter"):
        base_fingerprint(writer.model, names)


def test_large_tensors_are_sampled_evenly():
    model = torch.nn.ModuleList([torch.nn.Linear(300, 100, bias=False)])
    mark = base_fingerprint(model, ["0"])
    seen = torch.arange(4096) * 30000 // 4096
    changed = []
    for place in (0, int(seen[1]), int(seen[2000]), int(seen[-1]), 1):
        other = copy.deepcopy(model)
        with torch.no_grad():
            other[0].weight.view(-1)[place] += 1
        changed.append(base_fingerprint(other, ["0"]) != mark)
    assert changed == [True, True, True, True, False]
    with pytest.raises(LayerSelectError, match="hold no parameter"):
        base_fingerprint(torch.nn.ModuleList([torch.nn.ReLU()]), ["0"])


# ---------------------------------------------------------------------- importance.json


def finished_run(folder, **changes):
    """A run's folder with what a selector has recorded."""
    selector = FastSelector(plain(), "topk:k=2", mode="observe")
    for step in range(4):
        plain_loss(selector._model, step).backward()
        selector.step()
        selector._model.zero_grad()
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "layerselect.json").write_text("{}")
    (folder / "importance.json").write_text(json.dumps({**importance(selector), **changes}))
    return selector


def test_the_file_of_a_run_is_read(tmp_path):
    selector = finished_run(tmp_path / "run")
    expected = Importance(selector.layer_names, selector.frequency.tolist(), 4, {"name": "topk", "k": 2})
    for path in ("run", "run/adapter", "run/importance.json"):
        assert read_importance(tmp_path / path) == expected
    assert read_importance(str(tmp_path / "run")) == expected
    assert sum(expected.frequency) == 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 2}, "has schema 2 and this version reads 1"),
        ({"schema": None}, "has schema None"),
        ({"layer_names": []}, "layer_names is no list of names"),
        ({"layer_names": [1]}, "layer_names is no list of names"),
        ({"frequency": "many"}, "frequency is no list of counts"),
        ({"frequency": [1.5] * 6}, "frequency is no list of counts"),
        ({"frequency": [-1] * 6}, "frequency is no list of counts"),
        ({"frequency": [True] * 6}, "frequency is no list of counts"),
        ({"frequency": [1] * 5}, "6 layer_names and 5 frequencies"),
        ({"steps": "4"}, "steps is '4'"),
        ({"rule": "topk"}, "rule is 'topk'"),
        ({"rule": {}}, "rule is {}"),
    ],
)
def test_damaged_importance(tmp_path, changes, words):
    finished_run(tmp_path / "run", **changes)
    with pytest.raises(LayerSelectError, match=re.escape(words)):
        read_importance(tmp_path / "run")


def test_missing_importance(tmp_path):
    finished_run(tmp_path / "run")
    file = tmp_path / "run" / "importance.json"
    for text in (b"", b"{", b"\xff", b"[]"):
        file.write_bytes(text)
        with pytest.raises(LayerSelectError, match="train the predictor again"):
            read_importance(tmp_path / "run")
    file.unlink()
    for path in ("run", "run/adapter"):
        with pytest.raises(LayerSelectError, match=r"holds no importance\.json"):
            read_importance(tmp_path / path)
    with pytest.raises(LayerSelectError, match="there is no '.*away'"):
        read_importance(tmp_path / "away")


# ---------------------------------------------------------------------- which layers


@pytest.mark.parametrize(
    ("frequency", "rule", "expected"),
    [
        # Six layers: the window allows cuts after 3 and after 4. Ascending 1 1 2 9 9 10: variances 2/9 + 2/9 after 3; the layer
        # of the threshold 2 is taken, too.
        ([1, 2, 1, 9, 10, 9], "variance", [1, 3, 4, 5]),
        ([1, 2, 1, 9, 10, 9], VarianceSplit(inclusive=False), [3, 4, 5]),
        ([1, 2, 1, 9, 10, 9], "topk:k=2", [4, 5]),  # of equal ones the later
        ([1, 2, 1, 9, 10, 9], TopK(1), [4]),
        ([1, 2, 1, 9, 10, 9], "fraction:p=0.5", [3, 4, 5]),
        ([1, 2, 1, 9, 10, 9], Threshold(2), [1, 3, 4, 5]),
        ([1, 2, 1, 9, 10, 9], "all", [0, 1, 2, 3, 4, 5]),
        ([1, 2, 1, 9, 10, 9], "upper:p=0.5", [3, 4, 5]),
        ([1, 2, 1, 9, 10, 9], "fixed:layers=[0,-1]", [0, 5]),
        ([1, 2, 1, 9, 10, 9], Fixed([2], probe=True), [2]),
        ([3], "variance", [0]),
        (np.array([5, 0, 5]), "topk:k=2", [0, 2]),
        (torch.tensor([5, 0, 5]), "topk:k=2", [0, 2]),
    ],
)
def test_picking_by_frequency(frequency, rule, expected, caplog):
    assert pick_layers(frequency, rule) == expected
    assert caplog.text == ""


@pytest.mark.parametrize("rule", ["variance", "topk:k=1", "fraction:p=0.5"])
@pytest.mark.parametrize("count", [0, 7])
def test_equal_frequencies_say_nothing(caplog, rule, count):
    assert pick_layers([count] * 4, rule) == [0, 1, 2, 3]
    assert f"each of the 4 layers was selected {count} times" in caplog.text


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("all", [0, 1, 2]), ("fixed:layers=[1]", [1]), ("upper", [1, 2]), ("threshold:gamma=7", [0, 1, 2])],
)
def test_equal_frequencies_are_no_matter_where_nothing_is_cut(caplog, rule, expected):
    assert pick_layers([7] * 3, rule) == expected
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("frequency", "rule", "words"),
    [
        ([1, 2], "random:k=1", "rule 'random' reads no scores"),
        ([1, 2], "lisa", "rule 'lisa' reads no scores"),
        ([1, 2], "none", "rule 'none' reads no scores"),
        ([1, 2], "weight-norm", "rule 'weight-norm' reads no scores"),
        ([1, 2], CostAware(), "rule 'cost-aware' needs the model"),
        ([1, 2], "threshold:gamma=3", "picks none of 2 layers that were selected up to 2 times"),
        ([1, 2], "fixed:layers=[2]", "layer 2 is none of the 2 layers"),
        ([1, 2], "best", "no rule 'best'"),
        ([], "variance", "frequency="),
        ([1, -1], "variance", "frequency="),
        ([1.0, 2.5], "variance", "frequency="),
        (["a"], "variance", "frequency="),
        ([[1, 2]], "variance", "frequency="),
    ],
)
def test_what_cannot_pick(frequency, rule, words):
    with pytest.raises(LayerSelectError, match=re.escape(words)):
        pick_layers(frequency, rule)


def test_the_rule_of_a_selector_is_left_alone():
    rule = Fixed([3])
    FastSelector(plain(), rule, mode="observe")
    bound = rule._mask.clone()
    with pytest.raises(LayerSelectError, match="layer 3"):
        pick_layers([1, 2], rule)
    assert pick_layers([1, 2, 3, 4], rule) == [3]
    assert torch.equal(rule._mask, bound)


# ---------------------------------------------------------------------- alignment


@pytest.mark.parametrize(
    ("chosen", "own", "expected"),
    [
        ([0, 1, 2], [1, 2, 3, 4], 0.5),
        ([1], [1], 1.0),
        ([], [1], 0.0),
        ([5, 6], [1], 0.0),
        ([1, 1, 2], [2, 2, 3, 3], 0.5),
    ],
)
def test_alignment_ratio(chosen, own, expected):
    assert alignment_ratio(chosen, own) == expected


def test_no_alignment_with_nothing():
    with pytest.raises(LayerSelectError, match=r"own=\[\]"):
        alignment_ratio([1], [])


def test_only_steps_that_measured_all_layers_count():
    nan = float("nan")
    history = {
        "scores": np.array([[1, 2, 3], [9, 1, 1], [3, 2, 1], [nan, 2, 3], [1, 3, 2], [1, 2, np.inf]], np.float32),
        "trained": np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1]], bool),
    }
    frequency, steps = own_frequency(history, "topk:k=2")
    assert frequency.dtype == np.int64
    assert frequency.tolist() == [1, 3, 2]  # of rows 0, 2 and 4: {1, 2}, {0, 1}, {1, 2}
    assert steps == 3
    none = {name: column[1:2] for name, column in history.items()}
    frequency, steps = own_frequency(none)
    assert (frequency.tolist(), steps) == ([0, 0, 0], 0)


@pytest.mark.parametrize("rule", ["variance", "topk:k=2", Threshold(0.3)])
def test_it_is_what_a_selector_counts(rule):
    model = plain()
    with FastSelector(model, rule, mode="observe") as selector:
        for step in range(6):
            plain_loss(model, step).backward()
            selector.step()
            model.zero_grad()
        frequency, steps = own_frequency(selector.history.arrays(), rule)
    assert steps == 6
    assert frequency.tolist() == selector.frequency.tolist()
    assert frequency.sum() > 0


@pytest.mark.parametrize(
    ("history", "words"),
    [
        ({}, "lacks ['scores', 'trained']"),
        ({"scores": np.zeros((2, 3)), "trained": np.zeros((2, 2), bool)}, "(2, 3) and trained of shape (2, 2)"),
        ({"scores": np.zeros(3), "trained": np.zeros(3, bool)}, "both must be [n, L]"),
    ],
)
def test_no_history(history, words):
    with pytest.raises(LayerSelectError, match=re.escape(words)):
        own_frequency(history)


def test_no_history_of_rules_that_read_no_scores():
    history = {"scores": np.ones((1, 3), np.float32), "trained": np.ones((1, 3), bool)}
    with pytest.raises(LayerSelectError, match="rule 'random' reads no scores"):
        own_frequency(history, "random:k=1")
