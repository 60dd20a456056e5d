"""Runs whose models are held in few bits: they end with adapters that predict, as they were trained and otherwise."""

from __future__ import annotations

import json

import pytest
import torch
from layerselect import LayerSelectError
from layerselect.cli import main
from layerselect.models import holding
from layerselect.models.holding import is_installed
from layerselect.tasks.intent import IntentConfig, Predictor, run_intent
from layerselect.tasks.revise import ReviseConfig, Rewriter, run_revise
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification

from tests.helpers import tiny_intent

with_bitsandbytes = pytest.mark.skipif(not is_installed("bitsandbytes"), reason="bitsandbytes is not installed")
ROWS = tiny_intent.revisions(2, 2)


def settings(corpus, model, out, **changes):
    base = {"max_steps": 1, "batch_size": 8, "device": "cpu", "eval_limit": 2, "rule": "topk:k=1", "lora_rank": 2}
    base["blend"] = "none"  # the model is looked at
    return IntentConfig(data=str(corpus), model=str(model), out=str(out), **{**base, **changes})


def labelled(predictor):
    found = list(predictor.predict(ROWS))
    assert all(each.error is None and each.labels for each in found)
    return [score for each in found for score in each.scores.values()]


#: Options, each alone and in pairs that make sense; and the model.
RUNS = [
    ("bert", {"dtype": "bfloat16"}),
    ("llama", {"dtype": "float16", "adapter": "bottleneck", "bottleneck_places": "mlp"}),
    ("bert", {"dtype": "bfloat16", "adapter": "none", "gradient_checkpointing": "reentrant"}),
    pytest.param("bert", {"quantize": "8bit", "targets": "attention"}, marks=with_bitsandbytes),
    pytest.param(
        "llama",
        {
            "quantize": "4bit",
            "dtype": "bfloat16",
            "head": "generate",
            "attention": "eager",
            "optim": "paged_adamw_8bit",
        },
        marks=with_bitsandbytes,
    ),
    pytest.param(
        "bert", {"quantize": "8bit", "dtype": "bfloat16", "mode": "gate", "workers": 1}, marks=with_bitsandbytes
    ),
    pytest.param("bert", {"quantize": "4bit", "adapter": "dora", "holdout": 0.2}, marks=with_bitsandbytes),
    pytest.param("demo", {"quantize": "4bit", "adapter": "lora"}, marks=with_bitsandbytes),
]


@pytest.mark.parametrize(("model", "options"), RUNS)
def test_runs_end_with_adapters_that_predict_and_load_otherwise(few, folders, tmp_path, model, options):
    run = run_intent(settings(few, folders.get(model, model), tmp_path / "run", **options))
    meta = json.loads((run.folder / "adapter" / "layerselect.json").read_text())
    dtype, quantize = options.get("dtype", "float32"), options.get("quantize", "none")
    assert (meta["dtype"], meta["quantize"]) == (dtype, quantize)
    as_trained = labelled(Predictor.load(run.folder))
    lines = [json.loads(line) for line in (run.folder / "predictions.jsonl").read_text().splitlines()]
    assert lines
    plain = Predictor.load(run.folder, dtype="float32", quantize="none")
    otherwise = labelled(plain)
    assert max(abs(one - other) for one, other in zip(as_trained, otherwise, strict=True)) < 0.05
    if run.training["mode"] == "freeze":
        assert run.training["layers_selected"] == 1.0
    card = (run.folder / "adapter" / "README.md").read_text()
    assert f"held in {dtype}" in card or f"in {quantize[0]} bits" in card
    assert ("gradient checkpointing" in card) == ("gradient_checkpointing" in options)
    if options.get("adapter") != "none":
        check_plain_peft(run.folder, plain.model, options)


def check_plain_peft(folder, model, options):
    """peft alone loads the adapter, on the checkpoint itself, which is not quantized."""
    if options.get("adapter", "lora").startswith("bottleneck"):
        return
    kind = AutoPeftModelForCausalLM if options.get("head") == "generate" else AutoPeftModelForSequenceClassification
    found = kind.from_pretrained(folder / "adapter").float()
    assert not getattr(found.config, "quantization_config", None)
    ids = torch.arange(4, 12)[None]
    with torch.no_grad():
        one, other = (each.eval()(input_ids=ids).logits for each in (found, model))
    assert (one - other).abs().max() <= 0.02 * other.abs().max()


#: Of a run on 4 bits that may be broken off between its steps.
RESUMED = {"quantize": "4bit", "max_steps": 2, "save_steps": 1, "lora_dropout": 0.1}


@pytest.fixture(scope="module")
def four(few, folders, tmp_path_factory):
    """A finished run on 4 bits."""
    if not is_installed("bitsandbytes"):
        pytest.skip("bitsandbytes is not installed")
    out = tmp_path_factory.mktemp("four") / "run"
    return run_intent(settings(few, folders["llama"], out, **RESUMED)).folder


def test_commands_predict_otherwise_than_they_trained(four, tmp_path, capsys):
    source = tiny_intent.write_jsonl(tmp_path / "new.jsonl", ROWS)
    scores = []
    for options in ([], ["--quantize", "none"], ["--quantize", "none", "--dtype", "bfloat16"]):
        assert main(["predict", "--adapter", str(four), "--input", str(source), "--device", "cpu", *options]) == 0
        scores.append([json.loads(line)["scores"] for line in capsys.readouterr().out.splitlines()])
    assert len(scores[0]) == len(ROWS)
    assert scores[0] != scores[1] != scores[2]


def test_an_adapter_on_4_bits_needs_no_bitsandbytes_elsewhere(four, monkeypatch):
    monkeypatch.setattr(holding, "is_installed", lambda package: False)
    with pytest.raises(LayerSelectError, match="was trained with other means .* bitsandbytes.* use --quantize none"):
        Predictor.load(four)
    assert labelled(Predictor.load(four, quantize="none"))


def revise(corpus, model, out, **options):
    base = {"max_steps": 1, "predictor_max_steps": 1, "max_new_tokens": 2, "eval_limit": 2, "lora_rank": 2}
    return run_revise(ReviseConfig(data=str(corpus), model=str(model), out=str(out), device="cpu", **base, **options))


def test_a_predictor_on_4_bits_hands_over_to_a_generator_on_16(four, few, folders, tmp_path):
    """Of one checkpoint held in two ways the fingerprints differ, and that is no other checkpoint."""
    run = revise(few, folders["llama"], tmp_path / "run", predictor=str(four), dtype="bfloat16")
    assert run.transfer is not None and run.transfer.parameters


def test_revisions_are_written_with_adapters_that_were_handed_over(few, folders, tmp_path):
    options = {"dtype": "bfloat16", "targets": "attention,down_proj", "gradient_checkpointing": "nonreentrant"}
    if is_installed("bitsandbytes"):
        options["quantize"] = "4bit"
    run = revise(few, folders["llama"], tmp_path / "run", untrained=True, **options)
    saved = json.loads((tmp_path / "run" / "predictor" / "config.json").read_text())["settings"]
    assert {name: saved[name] for name in options} == options
    assert run.transfer is not None and run.transfer.parameters
    for how in ({}, {"dtype": "float32", "quantize": "none"}):
        assert len(Rewriter.load(run.folder, **how).rewrite(["The baker really finds a garden ."])) == 1


def test_a_run_on_4_bits_resumes_as_if_it_had_not_been_killed(four, few, folders, tmp_path):
    again = settings(few, folders["llama"], tmp_path / "again", **RESUMED)

    def killed(kind, record):
        if kind == "step" and record["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_intent(again, on_event=killed)
    resumed = run_intent(again, resume=True)
    names = ("adapter/adapter_model.safetensors", "predictions.jsonl")
    assert all((resumed.folder / name).read_bytes() == (four / name).read_bytes() for name in names)
