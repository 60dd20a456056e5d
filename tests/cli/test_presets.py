"""``--preset``: the published settings, as the written ``config.json`` and the comparison have them."""

from __future__ import annotations

import json

import pytest
from layerselect.cli import main
from layerselect.tasks.run.presets import PRESETS

from tests.helpers import tiny_intent

#: What the public code of IR-Tuning has.
PUBLISHED = {
    "lora_rank": 32,
    "lora_alpha": 64,
    "lora_dropout": 0.05,
    "targets": "q_proj,k_proj,v_proj,up_proj,down_proj",
    "bottleneck_size": 256,
    "bottleneck_activation": "tanh",
    "lr": 2e-4,
    "epochs": 4.0,
    "batch_size": 16,
    "lr_warmup_steps": 100,
    "max_length": 256,
    "seed": 171,
    "score": "sqrt_sum",
    "dtype": "float16",
    "rule": 'held:base="variance"',
    "probe_every": 0,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_intent.corpus_file(tmp_path_factory.mktemp("corpus"))


def test_a_run_with_the_preset_has_the_published_settings(corpus, llama_folder, tmp_path):
    options = [
        "--data",
        str(corpus),
        "--model",
        str(llama_folder),
        "--out",
        str(tmp_path / "run"),
        "--preset",
        "ir-tuning",
    ]
    # What is given beside it wins: a short run, of few examples.
    assert main(["intent", *options, "--max-steps", "2", "--lr", "1e-3", "--eval-limit", "4", "--device", "cpu"]) == 0
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert {name: settings[name] for name in PUBLISHED if name != "lr"} == {
        name: value for name, value in PUBLISHED.items() if name != "lr"
    }
    assert settings["lr"] == 1e-3
    selection = json.loads((tmp_path / "run" / "results.json").read_text())["training"]
    assert selection["mode"] == "freeze"


def test_the_presets_name_what_is_published():
    assert {name: PRESETS["ir-tuning"].settings[name] for name in PUBLISHED} == PUBLISHED
    assert "Not known" in PRESETS["ir-tuning"].source and "could not be read" in PRESETS["intention-tuning"].source


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["revise", "--preset", "ir-tuning"], "--preset ir-tuning is for --task intent, not revise"),
        (["intent", "--preset", "intention-tuning"], "--preset intention-tuning is for --task revise"),
        (["compare", "--task", "revise", "--preset", "ir-tuning"], "is for --task intent"),
    ],
)
def test_a_preset_of_another_task_is_refused(corpus, llama_folder, tmp_path, capsys, command, words):
    options = ["--data", str(corpus), "--model", str(llama_folder), "--out", str(tmp_path / "run")]
    assert main([*command, *options]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_a_comparison_takes_the_preset_and_varies_its_own(corpus, llama_folder, tmp_path, capsys):
    options = [
        "--data",
        str(corpus),
        "--model",
        str(llama_folder),
        "--out",
        str(tmp_path / "c"),
        "--preset",
        "ir-tuning",
    ]
    assert main(["compare", *options, "--methods", "paper", "--seeds", "1", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    names = [run["name"] for run in plan["runs"]]
    assert "ir-held-lora-seed0" in names and "weight-norm-lora-seed0" in names and len(names) == 8
