"""The folder of a trained adapter, loaded by people who have peft and transformers and nothing else."""

import json
import re
import shutil

import pytest
import torch
import yaml
from layerselect.models.adapters import AdapterConfig, add_adapter
from layerselect.models.load import load_causal_lm, load_classifier
from layerselect.models.vocabulary import cover_tokens
from layerselect.tasks.intent import Collator, Encoder, IntentConfig, Predictor, run_intent, save_adapter
from layerselect.tasks.text.formats import InputFormat
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
)

from tests.helpers import tiny_intent
from tests.helpers.pages import no_pages  # noqa: F401
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


#: Runs by name: the fixtures of their corpus and base model, and their settings.
RUNS = {
    "encoder": ("corpus_path", "bert_folder", {}),
    "decoder": ("several", "llama_folder", {"format": "pair"}),
    "encoder-decoder": ("corpus_path", "t5_folder", {"format": "plain"}),
    "writer": ("corpus_path", "llama_folder", {"head": "generate"}),
    "demo": ("corpus_path", None, {"adapter": "dora"}),
    "whole": ("several", "bert_folder", {"adapter": "none"}),
}


@pytest.fixture(scope="module", params=RUNS)
def run(request, tmp_path_factory):
    """A finished run by name: (name, its folder, its base model)."""
    corpus, base, changes = RUNS[request.param]
    base = request.getfixturevalue(base) if base else "demo"
    out = tmp_path_factory.mktemp("runs") / "run"
    run_intent(settings(request.getfixturevalue(corpus), base, out, **changes))
    return request.param, out, base


def labels_of(name):
    return sorted({*LABELS, "depth"}) if RUNS[name][0] == "several" else LABELS


def test_it_needs_no_arguments(run):
    name, folder, base = run
    path = folder / "adapter"
    tokenizer = AutoTokenizer.from_pretrained(path)
    if name == "writer":
        assert adapter_settings(folder)["task_type"] == "CAUSAL_LM"
        assert adapter_settings(folder)["base_model_name_or_path"] == str(base.resolve())
        assert tokenizer.padding_side == "left"
        same(folder, AutoPeftModelForCausalLM.from_pretrained(path))
        return
    if name == "whole":
        loaded = AutoModelForSequenceClassification.from_pretrained(path)
    else:
        assert adapter_settings(folder)["task_type"] == "SEQ_CLS"
        loaded = AutoPeftModelForSequenceClassification.from_pretrained(path)
    assert loaded.config.id2label == dict(enumerate(labels_of(name)))
    assert loaded.config.label2id == {label: number for number, label in enumerate(labels_of(name))}
    kind = "multi" if RUNS[name][0] == "several" else "single"
    assert loaded.config.problem_type == f"{kind}_label_classification"
    assert tokenizer.padding_side == "right"
    assert tokenizer.pad_token_id == loaded.config.pad_token_id is not None
    same(folder, loaded)
    if base != "demo":  # nothing of the base was copied
        assert not list(path.glob("base/*.safetensors"))


def test_the_programs_of_the_card_run(run, monkeypatch, capsys):
    name, folder, base = run
    text = (folder / "adapter" / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] == ("transformers" if name == "whole" else "peft")
    assert front.get("base_model") == (None if base == "demo" else base.name)
    assert str(folder) not in text
    assert "| trained model |" in text
    blocks = re.findall(r"^(`{3,})(\w+)\n(.*?)^\1$", text, re.M | re.S)
    programs = [code for _, language, code in blocks if language == "python"]
    example = next(code for _, language, code in blocks if language == "text")
    monkeypatch.chdir(folder / "adapter")
    values = {}
    exec(programs[0], values)
    made = values["text"] if values.get("second") is None else values["text"] + "\n" + values["second"]
    assert made == example.removesuffix("\n")
    exec(programs[1], values)
    predictor = Predictor.load(folder)
    if name == "writer":
        expected = predictor.encoder.encode(values["row"])["input_ids"]
        assert values["prompt"].tolist() == [expected]
        assert values["found"] in capsys.readouterr().out
    else:
        assert values["inputs"]["input_ids"].tolist() == [predictor.encoder.encode(values["row"])["input_ids"]]
        expected = next(predictor.predict([{"id": 1, **values["row"]}])).scores
        assert values["found"] == pytest.approx(expected, abs=1e-3)
    if name == "whole":
        assert len(programs) == 2
        return
    # What was said for another place holds in another place, the base model being at hand.
    (line,) = re.findall(r"^base = .*$", programs[2], re.M)
    elsewhere = programs[2] if base == "demo" else programs[2].replace(line, f"base = {str(base)!r}")
    exec(elsewhere, values)
    same(folder, values["model"])


@pytest.mark.parametrize("base", ["llama_folder", "demo"])
def test_a_writer_of_revisions(base, corpus_path, tmp_path, monkeypatch, request):
    from layerselect.tasks.revise import ReviseConfig, Rewriter, run_revise

    config = ReviseConfig(
        data=str(corpus_path),
        model=base if base == "demo" else str(request.getfixturevalue(base)),
        out=str(tmp_path / "run"),
        adapter="lora",
        rule="topk:k=1",
        probe_every=1,
        max_steps=2,
        predictor_max_steps=2,
        batch_size=4,
        max_length=64,
        eval_limit=2,
        device="cpu",
    )
    folder = run_revise(config).folder
    # So does the predictor that was trained on the way, in a folder that was moved since.
    same(folder / "predictor", load_auto(folder / "predictor"))
    loaded = AutoPeftModelForCausalLM.from_pretrained(folder / "adapter").eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        found, expected = loaded(ids).logits, Rewriter.load(folder).model(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    text = (folder / "adapter" / "README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["pipeline_tag"] == "text-generation"
    programs = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    monkeypatch.chdir(folder / "adapter")
    values = {}
    exec(programs[0], values)
    assert values["text"] in text
    exec(programs[1], values)


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


@pytest.mark.parametrize("kind", ["dora", "bottleneck", "bottleneck-parallel"])
def test_every_kind_of_adapter(kind, bert_folder, tmp_path):
    model = add_adapter(load_classifier(bert_folder, LABELS, multi_label=False), AdapterConfig(kind, rank=2, size=4))
    same(saved(model, bert_folder, tmp_path / "adapter", kind), load_auto(tmp_path))


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


def test_an_adapter_that_was_saved_before_still_loads(bert_folder, tmp_path):
    model = add_adapter(load_classifier(bert_folder, LABELS, multi_label=False), AdapterConfig(rank=2))
    folder = saved(model, bert_folder, tmp_path / "adapter")
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
    assert "peft alone cannot load the adapter" in caplog.text
    assert adapter_settings(tmp_path)["base_model_name_or_path"] == str(base)
