"""``--dry-run``: every command prints its plan alike, and what has no effect is said there, too."""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import replace

import pytest
from layerselect.cli.card_display import card_plan_lines
from layerselect.cli.display import plan_lines
from layerselect.cli.dry_run import print_plan
from layerselect.tasks.intent import IntentConfig
from layerselect.tasks.intent.task import IntentTask
from layerselect.tasks.revise import ReviseConfig
from layerselect.tasks.revise.task import ReviseTask
from layerselect.tasks.run.runner import plan_task

RUN = {
    "out": "o[1]",
    "state": "new",
    "model": "m",
    "layers": 6,
    "parameters": 1234,
    "trainable_parameters": 12,
    "splits": {"train": 1},
    "chosen_by": None,
    "steps": 1,
    "steps_before": 0,
}
CARD = {"out": "o[1]", "model": "m", "layers": 6, "examples": 1, "batches": 2, "fresh": []}


@pytest.mark.parametrize(
    ("plan", "lines", "place"),
    [
        (RUN, plan_lines(RUN), "out: o[1] (new; nothing is written now)"),
        (CARD, card_plan_lines(CARD), "out: o[1] (nothing is written now)"),
        ({"out": "o", "state": "finished"}, plan_lines({"state": "finished"}), "out: o (finished)"),
    ],
)
def test_plans_are_printed_alike(capsys, plan, lines, place):
    print_plan(plan, lines, argparse.Namespace(json=False))
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == place
    assert [line.split(": ")[0] for line in shown[1:]] == list(lines)
    print_plan(plan, lines, argparse.Namespace(json=True))
    assert json.loads(capsys.readouterr().out) == plan


def test_a_plan_counts_one_as_one():
    assert plan_lines(RUN)["training"] == "1 step; the checkpoint is chosen by nothing"
    assert card_plan_lines(CARD)["measured on"] == "1 example in 2 batches"


def test_a_plan_of_a_writer_counts_its_predictor(tmp_path):
    config = ReviseConfig(data="demo", model="demo", out=str(tmp_path / "o"), max_steps=2, predictor_max_steps=3)
    plan = plan_task(ReviseTask, config)
    assert plan_lines(plan)["first"] == "a predictor of intentions, 3 steps"
    for changed in (replace(config, transfer="none"), replace(config, predictor="somewhere")):
        assert not changed.trains_predictor
    assert "first" not in plan_lines(plan_task(ReviseTask, replace(config, transfer="none")))


def test_a_plan_says_what_has_no_effect(tmp_path, caplog, bert_folder):
    config = IntentConfig(
        data="demo", model=str(bert_folder), out=str(tmp_path / "o"), adapter="none", lora_rank=3, max_steps=1
    )
    with caplog.at_level(logging.WARNING):
        plan_task(IntentTask, config)
    assert "--lora-rank 3 has no effect with --adapter none" in caplog.text


@pytest.mark.parametrize("kind", [IntentConfig, ReviseConfig])
def test_what_the_demo_sets_by_itself_is_not_held_against_the_user(kind):
    common = {**kind.demo_defaults, "data": "demo", "model": "demo", "out": "o", "max_steps": 5}
    assert kind(**common).without_effect() == []
    assert kind(**common | {"epochs": 7.0}).without_effect() == ["--epochs 7.0 has no effect with --max-steps 5"]
    assert kind(**common | {"lora_rank": 2}).without_effect() == ["--lora-rank 2 has no effect with --adapter none"]
