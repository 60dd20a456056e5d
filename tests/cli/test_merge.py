"""``layerselect merge``: the merged model answers as the adapter did, in layerselect and in plain transformers."""

from __future__ import annotations

import json

import pytest
import torch
from layerselect.cli import main
from layerselect.tasks.intent import Predictor
from layerselect.tasks.revise import Rewriter
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.helpers import tiny_intent

ROWS = [{"id": "1", "before": "The baker teh evening .", "after": "The baker the evening ."}]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_intent.corpus_file(tmp_path_factory.mktemp("corpus"))


def trained(command, corpus, model, out, *options):
    arguments = [
        command,
        "--data",
        corpus,
        "--model",
        model,
        "--out",
        out,
        "--max-steps",
        3,
        "--device",
        "cpu",
        *options,
    ]
    assert main([str(each) for each in arguments]) == 0
    return out


def scores(folder):
    (prediction,) = Predictor.load(folder).predict(ROWS)
    return prediction.scores


@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_a_merged_predictor_answers_as_its_adapter(corpus, bert_folder, tmp_path, capsys, adapter):
    options = ("--adapter", adapter, "--lr", "0.05", "--blend", "none")
    run = trained("intent", corpus, bert_folder, tmp_path / "run", *options)
    capsys.readouterr()
    assert main(["merge", "--adapter", str(run), "--out", str(tmp_path / "m"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["task"] == "intent" and said["adapter"] == adapter
    ours, theirs = scores(tmp_path / "m"), scores(run)
    assert ours == pytest.approx(theirs, abs=1e-4)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "m")
    assert said["parameters"] == sum(p.numel() for p in plain.parameters())
    assert plain.config.id2label == {0: "clarity", 1: "fluency", 2: "style"}
    assert not any("lora" in name for name in plain.state_dict())
    encoded = Predictor.load(run).encoder(ROWS)[0]
    with torch.no_grad():
        logits = plain(**{name: torch.tensor([value]) for name, value in encoded.items()}).logits
    assert dict(zip(theirs, logits.softmax(-1)[0].tolist(), strict=True)) == pytest.approx(theirs, abs=1e-4)
    card = (tmp_path / "m" / "README.md").read_text()
    assert "library_name: transformers" in card and "AutoPeft" not in card and "## Which layers were trained" in card


def test_a_merged_generator_writes_as_its_adapter(corpus, llama_folder, tmp_path):
    options = ["--transfer", "none", "--eval-limit", "2", "--batch-size", "4"]
    run = trained("revise", corpus, llama_folder, tmp_path / "run", *options)
    assert main(["merge", "--adapter", str(run), "--out", str(tmp_path / "m")]) == 0
    ours, theirs = (Rewriter.load(place).rewrite(["The baker teh evening ."]) for place in (tmp_path / "m", run))
    assert ours == theirs
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "m").config.model_type == "llama"


def test_what_was_trained_on_four_bits_is_merged_into_all_of_them(corpus, llama_folder, tmp_path, capsys):
    pytest.importorskip("bitsandbytes")
    run = trained("intent", corpus, llama_folder, tmp_path / "run", "--quantize", "4bit", "--targets", "attention")
    capsys.readouterr()
    assert main(["merge", "--adapter", str(run), "--out", str(tmp_path / "m")]) == 0
    assert "logistic regression on the text (word_scores.json)" in capsys.readouterr().out
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "m")
    assert getattr(merged.config, "quantization_config", None) is None
    unquantized = Predictor.load(run, quantize="none")
    (theirs,) = unquantized.predict(ROWS)
    assert scores(tmp_path / "m") == pytest.approx(theirs.scores, abs=1e-4)


@pytest.mark.parametrize(
    ("adapter", "words"), [("bottleneck", "only lora and dora can be folded"), ("none", "holds a whole model")]
)
def test_what_cannot_be_merged_is_one_sentence(corpus, bert_folder, tmp_path, capsys, adapter, words):
    run = trained("intent", corpus, bert_folder, tmp_path / "run", "--adapter", adapter)
    capsys.readouterr()
    assert main(["merge", "--adapter", str(run), "--out", str(tmp_path / "m")]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (tmp_path / "m").exists()


def test_places_are_looked_at_first(corpus, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    assert main(["merge", "--adapter", str(tmp_path), "--out", str(tmp_path / "full")]) == 2
    assert "is a folder that is not empty" in capsys.readouterr().err
    assert main(["merge", "--adapter", str(tmp_path), "--out", str(tmp_path / "m")]) == 2
    assert "holds no adapter" in capsys.readouterr().err
