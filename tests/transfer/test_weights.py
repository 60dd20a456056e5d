"""Intention-Tuning's second step, proved on weights: what is copied, what stays, what moves."""

import json
import re
import shutil

import pytest
import torch
from layerselect import FastSelector, Fixed, LayerSelectError
from layerselect.models.adapters import add_adapter
from layerselect.models.load import load_classifier, prepare
from layerselect.transfer import Transfer, own_frequency, transfer_adapter
from safetensors.torch import load_file, save_file
from transformers import (
    BertModel,
    T5Config,
    T5ForConditionalGeneration,
    T5ForSequenceClassification,
)

from tests.helpers import tiny_intent
from tests.transfer.setting import (
    ARCHITECTURES,
    KINDS,
    LABELS,
    SHARED,
    config,
    everything,
    generator,
    in_layers,
    layer_of,
    same,
    save_run,
    shake,
    tokens,
)


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
    model = generator(bases[architecture], kind).train()
    transfer_adapter(model, predictors(architecture, kind)[0], SHARED)
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
    with pytest.raises(LayerSelectError, match="no file inside of its folder"):
        transfer_adapter(model, tmp_path / "run", [1])


def test_dropout_may_differ(bases, predictors):
    folder, _ = predictors("llama", "lora")
    assert transfer_adapter(generator(bases["llama"], dropout=0.3), folder, [1]).layers == [1]
