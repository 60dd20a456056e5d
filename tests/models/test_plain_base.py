"""The folder of a trained adapter, loaded by people who have peft and transformers and nothing else."""

import json
import shutil

import pytest
import torch
from layerselect.models.adapters import AdapterConfig, add_adapter
from layerselect.models.load import load_causal_lm, load_classifier
from layerselect.models.vocabulary import cover_tokens
from layerselect.tasks.intent import Collator, Encoder, IntentConfig, Predictor, run_intent, save_adapter
from layerselect.tasks.text.formats import InputFormat
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, PeftModel
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
)

from tests.helpers import tiny_intent
from tests.helpers.tiny_intent import LABELS

ROWS = tiny_intent.revisions(2, 3)


def settings(corpus, model, out, **changes):
    base = {"adapter": "lora", "epochs": 1, "max_steps": 2, "batch_size": 4, "lr": 1e-2, "device": "cpu"}
    return IntentConfig(data=str(corpus), model=str(model), out=str(out), **{**base, **changes})


def save_t5(folder):
    """An encoder-decoder."""
    from transformers import T5Config, T5ForConditionalGeneration

    words = tiny_intent.tokenizer()
    words.eos_token = "[SEP]"
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(words),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        decoder_start_token_id=words.pad_token_id,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_bert_classifier(folder, labels, *, trained):
    """A checkpoint that has a head already."""
    words = tiny_intent.tokenizer()
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
        pad_token_id=words.pad_token_id,
        num_labels=labels,
    )
    model = BertForSequenceClassification(config)
    if trained:
        for module in (model.classifier, model.bert.pooler.dense):
            torch.nn.init.normal_(module.bias, std=0.1)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory):
    return save_t5(tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A corpus with several labels at once."""
    rows = [
        {**row, "intentions": [*row["intentions"], "depth"] if i % 2 else row["intentions"]}
        for i, row in enumerate(tiny_intent.revisions(6))
    ]
    return tiny_intent.write_jsonl(tmp_path_factory.mktemp("several") / "several.jsonl", rows)


@torch.no_grad()
def both(folder, model, rows=ROWS):
    """The logits of the predictor, and those of a model that somebody else has loaded."""
    predictor = Predictor.load(folder)
    batch = Collator(predictor.encoder.tokenizer)(predictor.encoder(rows))
    return predictor.model(**batch).logits, model.eval()(**batch).logits


def same(folder, model, rows=ROWS):
    expected, found = both(folder, model, rows)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def adapter_settings(folder):
    return json.loads((folder / "adapter" / "adapter_config.json").read_text())


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        ("bert_folder", {}),
        ("bert_folder", {"adapter": "dora"}),
        ("llama_folder", {}),
        ("t5_folder", {}),
    ],
)
def test_a_classifier_needs_no_arguments(base, changes, corpus_path, tmp_path, request):
    model = request.getfixturevalue(base)
    folder = run_intent(settings(corpus_path, model, tmp_path / "run", **changes)).folder
    assert adapter_settings(folder)["task_type"] == "SEQ_CLS"
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(folder / "adapter")
    assert loaded.config.id2label == dict(enumerate(LABELS))
    assert loaded.config.label2id == {label: number for number, label in enumerate(LABELS)}
    assert loaded.config.problem_type == "single_label_classification"
    same(folder, loaded)
    tokenizer = AutoTokenizer.from_pretrained(folder / "adapter")
    assert tokenizer.padding_side == "right"
    assert tokenizer.pad_token_id == loaded.config.pad_token_id is not None
    same(folder, AutoModelForSequenceClassification.from_pretrained(folder / "adapter"))
    # With the base model in hand, wherever it lies.
    config = AutoConfig.from_pretrained(folder / "adapter" / "base")
    plain = AutoModelForSequenceClassification.from_pretrained(model, config=config)
    same(folder, PeftModel.from_pretrained(plain, folder / "adapter"))
    # Nothing of the base was copied.
    assert not list((folder / "adapter" / "base").glob("*.safetensors"))


def test_several_labels(several, bert_folder, tmp_path):
    folder = run_intent(settings(several, bert_folder, tmp_path / "run")).folder
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(folder / "adapter")
    assert loaded.config.problem_type == "multi_label_classification"
    assert loaded.config.num_labels == 4
    same(folder, loaded)


@pytest.mark.parametrize(("labels", "trained"), [(3, True), (5, True), (5, False)])
def test_a_checkpoint_with_a_head_of_its_own(labels, trained, tmp_path):
    """One of the right size is not trained, and one of another size is not read."""
    base = save_bert_classifier(tmp_path / "base", labels, trained=trained)
    model = add_adapter(load_classifier(base, LABELS, multi_label=False), AdapterConfig(rank=2))
    same(saved(model, base, tmp_path / "adapter"), load_auto(tmp_path))


def load_auto(folder):
    return AutoPeftModelForSequenceClassification.from_pretrained(folder / "adapter")


def saved(model, base, folder, kind="lora"):
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    tokenizer = AutoTokenizer.from_pretrained(base)
    encoder = Encoder(tokenizer, InputFormat("edits"), LABELS, 64)
    save_adapter(folder, model, encoder, base_model=str(base), kind=kind, multi_label=False)
    return folder.parent


def test_tokens_that_the_base_model_has_no_embeddings_for(bert_folder, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(bert_folder, base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["zork"])
    tokenizer.save_pretrained(base)
    loaded = load_classifier(base, LABELS, multi_label=False)
    cover_tokens(loaded.model, loaded.tokenizer, [[len(tokenizer) - 1]], loaded.source)
    folder = saved(add_adapter(loaded, AdapterConfig(rank=2)), base, tmp_path / "adapter")
    rows = [{"id": 1, "before": "a zork", "after": "zork zork"}]
    same(folder, load_auto(folder), rows)
    assert (folder / "adapter" / "base" / "model-00001.safetensors").exists()


def test_half_precision_in_the_checkpoint(bert_folder, tmp_path):
    from transformers import AutoModel

    AutoModel.from_pretrained(bert_folder, dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(bert_folder).save_pretrained(tmp_path / "base")
    model = add_adapter(load_classifier(tmp_path / "base", LABELS, multi_label=False), AdapterConfig(rank=2))
    same(saved(model, tmp_path / "base", tmp_path / "adapter"), load_auto(tmp_path))


@pytest.mark.parametrize("kind", ["bottleneck", "bottleneck-parallel"])
def test_bottlenecks_are_a_method_of_peft_where_the_package_is(kind, bert_folder, tmp_path):
    model = add_adapter(load_classifier(bert_folder, LABELS, multi_label=False), AdapterConfig(kind, size=4))
    same(saved(model, bert_folder, tmp_path / "adapter", kind), load_auto(tmp_path))


def test_whole_weights_are_a_model(corpus_path, bert_folder, tmp_path):
    folder = run_intent(settings(corpus_path, bert_folder, tmp_path / "run", adapter="none")).folder
    loaded = AutoModelForSequenceClassification.from_pretrained(folder / "adapter")
    assert loaded.config.id2label == dict(enumerate(LABELS))
    same(folder, loaded)


def test_the_demos_model_lies_beside_its_adapter(corpus_path, tmp_path):
    folder = run_intent(settings(corpus_path, "demo", tmp_path / "run")).folder
    same(folder, load_auto(folder))


def test_a_writer_refers_to_its_base_model(corpus_path, llama_folder, tmp_path):
    folder = run_intent(settings(corpus_path, llama_folder, tmp_path / "run", head="generate")).folder
    assert adapter_settings(folder)["task_type"] == "CAUSAL_LM"
    assert adapter_settings(folder)["base_model_name_or_path"] == str(llama_folder.resolve())
    assert AutoTokenizer.from_pretrained(folder / "adapter").padding_side == "left"
    same(folder, AutoPeftModelForCausalLM.from_pretrained(folder / "adapter"))


def test_a_writer_with_more_tokens_than_its_base_model(llama_folder, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(llama_folder, base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["zork"])
    tokenizer.save_pretrained(base)
    loaded = load_causal_lm(base)
    cover_tokens(loaded.model, loaded.tokenizer, [[len(tokenizer) - 1]], loaded.source)
    model = add_adapter(loaded, AdapterConfig(rank=2))
    saved(model, base, tmp_path / "adapter")
    ids = torch.tensor([[len(tokenizer) - 1, 5, 6]])
    again = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(ids).logits, model.eval()(ids).logits, atol=1e-6, rtol=0)


def test_an_adapter_that_was_saved_before_still_loads(corpus_path, bert_folder, tmp_path):
    folder = run_intent(settings(corpus_path, bert_folder, tmp_path / "run")).folder
    new = Predictor.load(folder).model
    shutil.rmtree(folder / "adapter" / "base")
    old = {"task_type": None, "base_model_name_or_path": str(bert_folder)}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(adapter_settings(folder) | old))
    same(folder, new)


def test_a_base_model_that_is_gone_is_a_warning(bert_folder, tmp_path, caplog):
    base = tmp_path / "base"
    shutil.copytree(bert_folder, base)
    model = add_adapter(load_classifier(base, LABELS, multi_label=False), AdapterConfig(rank=2))
    (base / "model.safetensors").unlink()
    saved(model, base, tmp_path / "adapter")
    assert "peft alone will need the labels" in caplog.text
    assert adapter_settings(tmp_path)["base_model_name_or_path"] == str(base)
