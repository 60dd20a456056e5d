import io
import json
import re

import pytest
from layerselect import _backend
from layerselect.cli import doctor, main
from layerselect.rules import registry

from tests.helpers.tiny_intent import LABELS


def test_intent_prints_the_table_and_where_the_report_is(capsys, tmp_path, corpus_path, bert_folder):
    out = tmp_path / "run"
    status = main(
        [
            "intent",
            "--data",
            str(corpus_path),
            "--model",
            str(bert_folder),
            "--out",
            str(out),
            "--max-steps",
            "2",
            "--rule",
            "topk:k=1",
            "--no-summary",
            "--measure-memory",
            "--threads",
            "1",
        ]
    )
    text = capsys.readouterr().out
    assert status == 0
    for words in (
        "majority class",
        "logistic regression",
        "trained model",
        "1.0 of 3 layers",
        "MB saved",
        "report.html",
    ):
        assert words in text
    settings = json.loads((out / "config.json").read_text())["settings"]
    assert settings["summary"] is False
    assert settings["rule"] == "topk:k=1"


@pytest.mark.parametrize("rule", ["lisa:n=2", "ist:update_every=2"])
def test_intent_takes_every_kind_of_rule(capsys, tmp_path, corpus_path, bert_folder, rule):
    out = tmp_path / "run"
    options = ["--rule", rule, "--max-steps", "4", "--out", str(out), "--threads", "1"]
    assert main(["intent", "--data", str(corpus_path), "--model", str(bert_folder), *options]) == 0
    assert f"{2.0 if rule.startswith('lisa') else 1.0} of 3 layers" in capsys.readouterr().out
    importance = json.loads((out / "importance.json").read_text())
    assert importance["rule"]["name"] == rule.partition(":")[0]
    facts = json.loads((out / "config.json").read_text())["corpus"]["splits"]
    assert ("importance" in facts) == rule.startswith("ist")


def test_help_names_every_rule(capsys):
    with pytest.raises(SystemExit):
        main(["intent", "--help"])
    text = re.sub(r"-\n\s+", "-", capsys.readouterr().out)  # names are broken at their hyphens
    for name in registry.built_in():
        assert re.search(rf"\b{name}\b", text), name


def test_predict_writes_json_lines(capsys, tmp_path, run_folder, corpus_path):
    target = tmp_path / "labelled.jsonl"
    assert main(["predict", "--adapter", str(run_folder), "--input", str(corpus_path), "--out", str(target)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["labelled.jsonl"]
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert len(rows) == 72
    assert [row["id"] for row in rows[:2]] == ["r0", "r1"]
    for row in rows:
        assert set(row) == {"id", "labels", "scores"}
        assert list(row["scores"]) == LABELS
        assert row["labels"] == [max(row["scores"], key=row["scores"].get)]
    capsys.readouterr()
    assert main(["predict", "--adapter", str(run_folder / "adapter"), "--input", str(corpus_path)]) == 0
    assert capsys.readouterr().out == target.read_text()


def test_predict_reads_standard_input(capsys, monkeypatch, run_folder):
    line = b'{"before": "He go home.", "after": "He goes home."}\n'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(line)))
    assert main(["predict", "--adapter", str(run_folder), "--input", "-"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_demo_runs_the_real_job_with_selection_and_without(capsys, tmp_path):
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--epochs", "0.05"]) == 0
    text = capsys.readouterr().out
    assert "trained model" in text
    table = text[text.index("On the test split") :]
    named = [line.split("│")[1].strip() for line in table.splitlines() if line.startswith("│")]
    assert named == ["logistic regression", "all layers", "selected layers"]
    facts = {}
    for folder in (out, tmp_path / "demo-all"):
        assert (folder / "report.html").exists()
        facts[folder.name] = json.loads((folder / "results.json").read_text())["training"]
    assert facts["demo"]["saved_mb"] > 0
    assert facts["demo"]["trained_parameters"] < facts["demo-all"]["trained_parameters"]

    assert (
        main(["demo", "--out", str(out), "--epochs", "0.05", "--rule", "all", "--json"]) == 0
    )  # its folder is replaced
    result = json.loads(capsys.readouterr().out)
    assert {"folder", "training", "splits"} <= set(result)
    assert [row["predictor"] for row in result["summary"]] == ["logistic regression", "all layers"]


def test_describe(capsys, corpus_path, bert_folder):
    assert main(["data", "describe", str(corpus_path), "--model", str(bert_folder), "--max-length", "10"]) == 0
    text = capsys.readouterr().out
    assert "fluency" in text
    assert "longer than 10 tokens" in text
    assert main(["data", "describe", str(corpus_path), "--json"]) == 0
    assert sum(json.loads(capsys.readouterr().out)["rows"].values()) == 72


def test_doctor_says_what_is_there(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for words in ("python", "torch", "compiled core", "backend", "C++ compiler", "nvcc", "extra data"):
        assert words in text


def test_doctor_says_what_to_do_about_what_is_missing(monkeypatch):
    monkeypatch.setattr(doctor, "_package", lambda name: None if name == "jinja2" else "1.0")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(_backend, "_native", lambda: "no module named layerselect._C")
    found = {finding.what: finding for finding in doctor.examine()}
    assert found["extra report"].state == "missing"
    assert found["extra report"].remedy == "pip install 'layerselect[report]'"
    assert found["extra data"].state == "ok"
    assert found["compiled core"].state == "note"
    assert "compiler" in found["compiled core"].remedy
    assert found["backend"].found == "cpu: torch"
    assert found["C++ compiler"].remedy


@pytest.mark.parametrize("flag", ["-v", None])
def test_verbose_says_what_is_being_done(capsys, tmp_path, corpus_path, bert_folder, flag):
    arguments = ["intent", "--data", corpus_path, "--model", bert_folder, "--out", tmp_path / "r", "--max-steps", 1]
    assert main([str(a) for a in arguments] + ([flag] if flag else [])) == 0
    assert ("trained whole" in capsys.readouterr().err) == bool(flag)
