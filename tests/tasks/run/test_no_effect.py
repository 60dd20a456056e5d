"""Options that change nothing are said, and a limit of evaluations reaches every one of them."""

from __future__ import annotations

import json
import logging

import pytest
from layerselect import FastSelector
from layerselect.tasks.intent import IntentConfig, run_intent
from layerselect.tasks.revise import ReviseConfig, run_revise

from tests.helpers import tiny_intent
from tests.helpers.models import plain

COMMON = {"data": "demo", "model": "demo", "out": "o"}


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (IntentConfig, {"adapter": "none", "lora_rank": 8}, ["--lora-rank 8 has no effect with --adapter none"]),
        (
            IntentConfig,
            {"adapter": "bottleneck", "lora_alpha": 4},
            ["--lora-alpha 4 has no effect with --adapter bott"],
        ),
        (IntentConfig, {"bottleneck_size": 8}, ["--bottleneck-size 8 has no effect with --adapter lora"]),
        (IntentConfig, {"mode": "gate", "probe_every": 3}, ["--probe-every 3 has no effect with --mode gate"]),
        (IntentConfig, {"epochs": 2.0, "max_steps": 5}, ["--epochs 2.0 has no effect with --max-steps 5"]),
        (IntentConfig, {"format": "pair", "window": 1, "gap": 2}, ["--window 1 has", "--gap 2 has"]),
        (ReviseConfig, {"transfer": "none", "predictor_lr": 0.5}, ["--predictor-lr 0.5 has no effect with --transfer"]),
        (
            ReviseConfig,
            {"predictor": "x", "predictor_max_steps": 5},
            ["--predictor-max-steps 5 has no effect with --from"],
        ),
        (IntentConfig, {"adapter": "dora", "lora_rank": 8, "window": 1, "probe_every": 3, "epochs": 2.0}, []),
        (ReviseConfig, {"predictor_lr": 0.5}, []),
    ],
)
def test_what_has_no_effect_is_named(kind, options, words):
    found = kind(**COMMON, **options).without_effect()
    assert len(found) == len(words)
    assert all(sentence.startswith(start) for sentence, start in zip(found, words, strict=True))


def test_a_rule_that_selects_all_says_so(caplog):
    with caplog.at_level(logging.WARNING), FastSelector(plain(), "topk:k=300"):
        pass
    assert "rule 'topk': k=300 selects all of the 6 layers" in caplog.text
    caplog.clear()
    with FastSelector(plain(), "topk:k=5"):
        pass
    assert caplog.text == ""


def evaluated(folder):
    """How many examples each split had in the results and the predictions of a run."""
    results = json.loads((folder / "results.json").read_text())["splits"]
    lines = [json.loads(line)["split"] for line in (folder / "predictions.jsonl").read_text().splitlines()]
    return {name: (content.get("scored", content["examples"]), lines.count(name)) for name, content in results.items()}


def test_a_limit_reaches_every_evaluation(tmp_path, bert_folder, llama_folder, caplog):
    options = {"data": str(tiny_intent.corpus_file(tmp_path)), "max_steps": 2, "device": "cpu", "eval_limit": 2}
    with caplog.at_level(logging.WARNING):
        run = run_intent(
            IntentConfig(model=str(bert_folder), out=str(tmp_path / "intent"), adapter="none", lora_rank=2, **options)
        )
    assert "--lora-rank 2 has no effect with --adapter none" in caplog.text
    assert evaluated(run.folder) and set(evaluated(run.folder).values()) == {(2, 2)}
    assert all(
        report.rows and sum(row.support for row in report.rows) == 2 for report in run.splits[0].reports.values()
    )
    out = tmp_path / "revise"
    run_revise(ReviseConfig(model=str(llama_folder), out=str(out), predictor_max_steps=2, max_new_tokens=2, **options))
    assert set(evaluated(out).values()) == set(evaluated(out / "predictor").values()) == {(2, 2)}
