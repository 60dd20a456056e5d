"""A finished run in the terminal, and results as JSON."""

from __future__ import annotations

import json
import shutil

import pytest
from layerselect import LayerSelectError
from layerselect.cli import main
from layerselect.tasks.inspect.finished import mistakes, read_finished


@pytest.fixture(scope="module")
def runs(tmp_path_factory, bert_folder, llama_folder):
    """A predictor's run and a generator's."""
    folder = tmp_path_factory.mktemp("runs")
    corpus = folder / "corpus.jsonl"
    lines = [
        {"before": f"He go to {place}.", "after": f"He {word} to {place}.", "label": label, "doc_id": str(number % 7)}
        for number, place in enumerate(["school", "work", "[bold]Rome", "bed"] * 7)
        for word, label in (("goes", "fluency"), ("walks", "clarity"))
    ]
    corpus.write_text("".join(json.dumps(line) + "\n" for line in lines))
    common = ["--data", str(corpus), "--max-steps", "3", "--batch-size", "4", "--device", "cpu"]
    assert (
        main(["intent", *common, "--blend", "none", "--model", str(bert_folder), "--out", str(folder / "intent")]) == 0
    )
    revise = ["--transfer", "none", "--eval-limit", "4", "--max-new-tokens", "4"]
    assert main(["revise", *common, *revise, "--model", str(llama_folder), "--out", str(folder / "revise")]) == 0
    return folder


def shown(capsys, *arguments):
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("task", ["intent", "revise"])
def test_a_run_is_shown(runs, capsys, task):
    text = shown(capsys, "inspect", runs / task)
    assert f"layerselect {task}, data " in text and "Layers, in forward order" in text
    assert "beside training all layers: " in text and "s in all: loading " in text
    assert f"layerselect {'predict' if task == 'intent' else 'rewrite'} --adapter {runs / task}" in text
    assert "mistakes on test" in text or "lowest SARI on test" in text or "on validation" in text


def test_a_run_outlives_its_corpus(runs, capsys, caplog):
    corpus = runs / "corpus.jsonl"
    away = corpus.rename(runs / "away.jsonl")
    try:
        text = shown(capsys, "inspect", runs / "intent")
    finally:
        away.rename(corpus)
    assert "Layers, in forward order" in text and "mistakes on" in text and "before:" not in text
    assert "the mistakes are shown without their texts" in caplog.text


def test_what_it_got_wrong_has_its_text(runs, capsys):
    run = read_finished(runs / "intent")
    split = run.result.splits[-1].split
    wrong = mistakes(run, split, 100)
    lines = [json.loads(line) for line in (runs / "intent" / "predictions.jsonl").read_text().splitlines()]
    expected = [line["id"] for line in lines if line["split"] == split and line["labels"] != line["predicted"]]
    assert sorted(line["id"] for line in wrong) == sorted(expected)
    assert all(line["before"].startswith("He go to") and line["after"].startswith("He ") for line in wrong)
    sure = [line["scores"][line["predicted"][0]] for line in wrong]
    assert sure == sorted(sure, reverse=True)
    assert len(mistakes(run, split, 1)) == min(1, len(wrong))
    assert "Layers" in shown(capsys, "inspect", runs / "intent", "--mistakes", "0")


def test_the_worst_revisions_come_first(runs):
    worst = mistakes(read_finished(runs / "revise"), "test", 3)
    assert [line["scores"]["sari"] for line in worst] == sorted(line["scores"]["sari"] for line in worst)


@pytest.mark.parametrize("task", ["intent", "revise"])
def test_json_is_the_files_of_the_run(runs, capsys, task):
    found = json.loads(shown(capsys, "inspect", runs / task, "--json"))
    results = json.loads((runs / task / "results.json").read_text())
    importance = json.loads((runs / task / "importance.json").read_text())
    assert found["training"] == results["training"] and found["splits"] == results["splits"]
    assert [layer["name"] for layer in found["layers"]] == importance["layer_names"]
    share = [count / importance["steps"] for count in importance["frequency"]]
    assert [layer["selected"] for layer in found["layers"]] == pytest.approx(share)
    again = json.loads(shown(capsys, task, "--config", runs / task / "config.json", "--resume", "--json"))
    assert again["splits"] == results["splits"] and again["folder"] == str(runs / task)


def test_what_is_no_finished_run_is_one_sentence(runs, tmp_path):
    for place, words in ((tmp_path / "none", "there is no finished run"), (runs, "there is no finished run")):
        with pytest.raises(LayerSelectError, match=words):
            read_finished(place)
    partial = tmp_path / "run.partial"
    partial.mkdir()
    with pytest.raises(LayerSelectError, match="an interrupted one lies in"):
        read_finished(tmp_path / "run")
    copy = tmp_path / "copy"
    shutil.copytree(runs / "intent", copy)
    (copy / "config.json").write_text('{"command": "else", "settings": {}, "corpus": {}, "versions": {}}')
    with pytest.raises(LayerSelectError, match="give the --out of 'layerselect intent' or 'revise'"):
        read_finished(copy)
    with pytest.raises(LayerSelectError, match="--split odd is none of the splits of this run"):
        mistakes(read_finished(runs / "intent"), "odd", 1)


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(runs, capsys, tmp_path, bert_folder):
    options = ["--data", runs / "corpus.jsonl", "--model", bert_folder, "--out", tmp_path / "o", "--batch-size", "4"]
    text = shown(capsys, "intent", *options, "--dry-run")
    assert "nothing is written now" in text and "layers, trains" in text and "steps" in text
    plan = json.loads(shown(capsys, "intent", *options, "--dry-run", "--json"))
    assert plan["state"] == "new" and plan["splits"]["train"] > 0
    assert plan["steps"] == -(-plan["splits"]["train"] // 4) * 3
    assert list(tmp_path.iterdir()) == []
    done = json.loads(
        shown(capsys, "revise", "--config", runs / "revise" / "config.json", "--resume", "--dry-run", "--json")
    )
    assert done == {"out": str(runs / "revise"), "state": "finished"}


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_can_complete(capsys, shell):
    pytest.importorskip("shtab")
    script = shown(capsys, "completion", shell)
    assert "layerselect" in script and "--learning-rate" in script and "state-cache" in script


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["intnt"], "did you mean intent?"),
        (["intent", "--schedule", "lineer"], "did you mean linear?"),
        (["intent", "--epoch", "3"], "--epochs"),
    ],
)
def test_a_slip_is_told_what_was_meant(capsys, arguments, words):
    with pytest.raises(SystemExit):
        main([*arguments, "--data", "demo", "--model", "demo", "--out", "o"])
    assert words in capsys.readouterr().err


def test_dry_runs_of_a_comparison_and_a_card(runs, capsys, tmp_path, bert_folder):
    options = ["--data", runs / "corpus.jsonl", "--model", bert_folder, "--batch-size", "4", "--dry-run"]
    compare = ["compare", *options, "--out", tmp_path / "c", "--methods", "all,ir", "--seeds", "2"]
    plan = json.loads(shown(capsys, *compare, "--json"))
    names = [f"{method}-lora-seed{seed}" for seed in range(2) for method in ("all", "ir")]
    assert [run["name"] for run in plan["runs"]] == names
    assert not any(run["finished"] for run in plan["runs"]) and plan["splits"]["train"] > 0
    assert "runs: 4, of which 0 are finished" in shown(capsys, *compare)
    card = ["card", *options, "--out", tmp_path / "card", "--examples", "8"]
    plan = json.loads(shown(capsys, *card, "--json"))
    assert plan["examples"] == 8 and plan["batches"] == 2 and plan["fresh"]
    assert "8 examples in 2 batches" in shown(capsys, *card)
    assert list(tmp_path.iterdir()) == []
