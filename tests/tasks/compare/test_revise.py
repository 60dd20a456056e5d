"""A comparison of generators: the predictor they share, the baselines, the tested SARI, and a predictor that fails."""

import json
import re
import shutil
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from layerselect import LayerSelectError
from layerselect.cli.compare_display import print_comparison
from layerselect.metrics import RevisionScores, sari
from layerselect.report.compare import render
from layerselect.tasks.compare import (
    CompareConfig,
    comparison_rows,
    csv_table,
    markdown_table,
    read_comparison,
    read_run,
    run_compare,
    used_columns,
    workshop,
)
from layerselect.tasks.compare.edits import edits_markdown, edits_of_rows
from layerselect.tasks.compare.page import compare_report
from layerselect.tasks.compare.run import plan_compare

from tests.helpers import tiny_intent
from tests.tasks.compare.test_run import in_this_process


@pytest.fixture(scope="module")
def config(llama_folder, tmp_path_factory):
    corpus = tiny_intent.corpus_file(tmp_path_factory.mktemp("corpus"))
    other = corpus.with_name("other.txt")
    other.write_text("The tide came in over the flats , and the boats began to lift .\n")
    base = {
        "data": str(corpus),
        "shots": 1,
        "forgetting": str(other),
        "model": str(llama_folder),
        "max_steps": 2,
        "predictor_max_steps": 3,
        "batch_size": 4,
        "predictor_batch_size": 4,
        "predictor_rule": "topk:k=1",
        "probe_every": 1,
        "max_length": 64,
        "eval_limit": 4,
        "lora_rank": 2,
        "device": "cpu",
        "keep": "last",
    }
    return CompareConfig(
        out=str(tmp_path_factory.mktemp("out") / "c"),
        base=base,
        task="revise",
        seeds=1,
        bootstrap=50,
        threads=1,
        methods=("all", "intention-tuning", "transfer-all"),
    )


def plain(config, **changes):
    """The comparison without what it also asks of the untrained model."""
    base = {name: value for name, value in config.base.items() if name not in ("shots", "forgetting")}
    return replace(config, base=base, **changes)


@pytest.fixture(scope="module")
def done(config):
    events = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workshop, "train_run", in_this_process)
        return run_compare(config, on_event=lambda kind, record: events.append(record)), events


def test_rows_that_start_from_a_predictor_share_one(done):
    comparison, events = done
    assert comparison.failed == []
    finished = [event["name"] for event in events if event.get("state") == "finished"]
    assert finished[0] == "predictor-lora-seed0"
    assert sorted(finished[1:]) == ["all-lora-seed0", "intention-tuning-lora-seed0", "transfer-all-lora-seed0"]
    assert events[-1]["done"] == events[-1]["runs"] == 4
    runs = comparison.folder / "runs"
    settings = json.loads((runs / "transfer-all-lora-seed0" / "config.json").read_text())["settings"]
    assert settings["predictor"] == str(runs / "predictor-lora-seed0")
    assert not (runs / "transfer-all-lora-seed0" / "predictor").exists()


def test_baselines_and_the_test_against_all(done):
    comparison, _ = done
    rows = comparison_rows(comparison)
    assert [row.name for row in rows] == [
        "source copied",
        "untrained model",
        "untrained, 1 shot",
        "all/lora",
        "intention-tuning/lora",
        "transfer-all/lora",
    ]
    copied, _, shown, everything, tuned, _ = rows
    assert shown.values["sari"].count == 1 and shown.what == "baseline"
    change = tuned.values["other_text_loss"].mean - everything.values["other_text_loss"].mean
    assert tuned.values["forgotten"].mean - everything.values["forgotten"].mean == pytest.approx(change, abs=1e-5)
    assert copied.values["copy_rate"].mean == 1.0
    assert everything.difference is None
    assert tuned.difference.mean == pytest.approx(tuned.values["sari"].mean - everything.values["sari"].mean, abs=1e-9)
    assert "alignment_ratio" in tuned.values and "alignment_ratio" not in everything.values
    text = markdown_table(comparison, rows)
    assert "alignment ratio" in text and "macro-F1" not in text and "steps to 95" not in text.lower()
    assert csv_table(comparison.config.kind, rows).startswith("row,seeds,sari,")
    assert copied.values["edits_made"].mean == copied.values["invented"].mean == 0.0
    assert "edits_unasked" not in copied.values  # a copy makes none
    assert "| loss on other text | forgotten |" in text and "of --forgetting, which is of no task" in text
    assert "| copies | edits made | edits in no reference | invented words |" in text
    page = render(compare_report(comparison, rows))
    assert "copied source has learned nothing" in page and "macro-F1" not in page


def test_the_untrained_model_is_asked_once(config):
    settings = [config.settings(run, "x", "predictor") for run in replace(config, seeds=2).runs()]
    assert [(each.untrained, each.shots) for each in settings] == [(True, 1), *[(False, 0)] * 5]
    assert all(each.forgetting == config.base["forgetting"] for each in settings)


def test_what_earlier_releases_kept_is_read_and_lacks_the_edits(config, done, tmp_path):
    comparison, _ = done
    for name in ("kept", "runs"):
        shutil.copytree(comparison.folder / name, tmp_path / "c" / name)
    later = comparison.config.kind.later
    assert set(later) == {"edits_made", "edits_unasked", "invented"}
    for path in (tmp_path / "c").glob("kept/*.json"):
        without_counts(path)
    for path in [*(tmp_path / "c").glob("kept/*-seed0.json"), *(tmp_path / "c").glob("runs/*/results.json")]:
        path.write_text(re.sub(rf'"({"|".join(later)})": ?[^,}}]+,? ?', "", path.read_text()).replace(",}", "}"))
    old = replace(config, out=str(tmp_path / "c"))
    again = read_comparison(old)
    assert again.failed == []
    rows = {row.name: row for row in comparison_rows(again)}
    assert not set(later) & set(rows["all/lora"].values)
    assert rows["all/lora"].values["sari"] == comparison_rows(comparison)[3].values["sari"]
    text = markdown_table(again, list(rows.values()))
    assert "| copies |" in text and "invented words |" not in text
    assert edits_of_rows(again) == {} and "<h2>Edits" not in render(compare_report(again, list(rows.values())))
    run = comparison.results[0].run
    assert read_run(run, tmp_path / "c" / "runs" / run.name).reason is None


def without_counts(path):
    """A kept file as releases wrote it that counted no edits and kept no intentions."""
    content = json.loads(path.read_text())
    statistics = content.get("statistics", {})
    for splits in [statistics] if path.name.endswith("seed0.json") else statistics.values():
        splits.update({name: [row[:36] for row in rows] for name, rows in splits.items()})
    for part in content.get("splits", {}).values():
        part["labels"] = [[] for _ in part["labels"]]
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n")


def test_a_run_beside_those_of_earlier_releases_has_its_edits(config, done, tmp_path, monkeypatch):
    """Its examples get their intentions, and no table needs what the others lack."""
    comparison, _ = done
    monkeypatch.setattr(workshop, "train_run", in_this_process)
    for name in ("kept", "runs", "compare.json"):
        place = comparison.folder / name
        (shutil.copytree if place.is_dir() else shutil.copy)(place, tmp_path / name)
    for path in (tmp_path / "kept").glob("*.json"):
        without_counts(path)
    (tmp_path / "kept" / "intention-tuning-lora-seed0.json").unlink()
    again = run_compare(replace(config, out=str(tmp_path)))
    assert again.failed == []
    edits = edits_of_rows(again)
    assert list(edits) == ["intention-tuning/lora"] and edits["intention-tuning/lora"].by_intention
    examples = json.loads((tmp_path / "kept" / "examples.json").read_text())
    assert all(labels for part in examples["splits"].values() for labels in part["labels"])


def test_the_edits_of_a_row_are_those_of_its_texts(done):
    comparison, _ = done
    edits = edits_of_rows(comparison)
    assert list(edits) == [row.name for row in comparison_rows(comparison)]
    results = json.loads((comparison.folder / "runs" / "all-lora-seed0" / "results.json").read_text())
    reports = results["splits"][comparison.split]["reports"]
    for name, said in {"all/lora": "trained model", **{each: each for each in list(edits)[:3]}}.items():
        theirs = RevisionScores.from_dict(reports[said])
        assert edits[name].whole == theirs.edits
        assert edits[name].by_intention == ({} if name == "source copied" else theirs.by_intention)
    text = edits_markdown(comparison)
    assert "| in the references |" in text and "| all/lora | clarity |" in text
    page = render(compare_report(comparison, comparison_rows(comparison)))
    assert "<h2>Edits</h2>" in page and '<tr class="own"><td></td><td class="text">all/lora</td>' in page


def test_a_predictor_that_fails_fails_those_that_start_from_it_and_no_other(config, tmp_path, monkeypatch):
    def train_run(task, settings, log, threads, running, on_note, on_part):
        return (
            "killed by SIGKILL"
            if task == "intent"
            else in_this_process(task, settings, log, threads, running, on_note, on_part)
        )

    monkeypatch.setattr(workshop, "train_run", train_run)
    comparison = run_compare(plain(config, out=str(tmp_path / "c"), methods=("all", "intention-tuning")))
    assert [result.reason for result in comparison.results] == [None, "its predictor failed: killed by SIGKILL"]


def test_a_row_that_needs_no_predictor_does_not_wait_for_one(config, tmp_path, monkeypatch):
    """The predictor ends when the row has begun; the rows that start from it have not begun before."""
    begun, row_begun = [], threading.Event()

    def train_run(task, settings, *rest):
        name = Path(settings["out"]).name
        begun.append(name)
        if task == "intent":
            assert row_begun.wait(60), "the row waits for the predictor"
            assert begun == [name, "all-lora-seed0"]
        elif name.startswith("all-"):
            row_begun.set()
        return "tried enough"

    monkeypatch.setattr(workshop, "train_run", train_run)
    events = []
    run_compare(
        plain(config, out=str(tmp_path / "c"), methods=("intention-tuning", "all"), jobs=2),
        on_event=lambda kind, record: events.append(record),
    )
    assert begun == ["predictor-lora-seed0", "all-lora-seed0"]
    assert events[-1]["done"] == events[-1]["runs"] == 3


@pytest.mark.parametrize("room", [40, 80, 200])
def test_the_tables_on_a_terminal_hold_every_column_once_and_fit(done, room, monkeypatch, capsys):
    comparison, _ = done
    rows = comparison_rows(comparison)
    monkeypatch.setenv("COLUMNS", str(room))
    print_comparison(comparison, rows, None)
    shown = capsys.readouterr().out
    tables = shown.partition("Edits on")[0].splitlines()
    words = Counter(word for line in tables if "┃" in line for word in line.replace("┃", " ").split())
    words["method"] = 0  # it begins each table
    expected = " ".join(heading for _, heading, _ in used_columns(comparison.config.kind, rows)).split()
    assert +words == Counter(expected)
    assert "…" not in shown and max(map(len, (line for line in tables if line[:1] in "┏┃┡│├└"))) <= room


def test_a_dry_run_names_options_that_change_nothing_in_any_row(config, tmp_path):
    base = {**config.base, "predictor_batch_size": 8, "bottleneck_size": 5}  # only rows that transfer have a predictor
    asked = plain(config, out=str(tmp_path / "c"), methods=("all", "intention-tuning"))
    plan = plan_compare(replace(asked, base={**asked.base, **base}))
    assert [each.split()[0] for each in plan["without_effect"]] == ["--bottleneck-size"]
    plan = plan_compare(replace(asked, base={**asked.base, **base}, methods=("all",)))
    assert {"--bottleneck-size", "--predictor-batch-size"} <= {each.split()[0] for each in plan["without_effect"]}


def test_generators_by_folds(config, tmp_path, monkeypatch):
    """SARI of all folds together, by document; a predictor for each fold; nothing of the texts is kept."""
    monkeypatch.setattr(workshop, "train_run", in_this_process)
    folded = plain(config, out=str(tmp_path / "c"), methods=("all", "intention-tuning"), folds=2)
    comparison = run_compare(folded)
    assert comparison.failed == []
    names = sorted(path.name for path in (tmp_path / "c" / "runs").iterdir() if path.is_dir())
    assert names == sorted(
        f"{row}-seed0-fold{fold}" for row in ("all-lora", "intention-tuning-lora", "predictor-lora") for fold in (1, 2)
    )
    rows = {row.name: row for row in comparison_rows(comparison)}
    texts, written = [], []
    for fold in (1, 2):
        lines = (tmp_path / "c" / "runs" / f"all-lora-seed0-fold{fold}" / "predictions.jsonl").read_text().splitlines()
        texts += [record for record in map(json.loads, lines) if record["split"] == "test"]
        written.append((tmp_path / "c" / "kept" / f"all-lora-seed0-fold{fold}.json").read_text())
    whole = sari(*([record[key] for record in texts] for key in ("source", "prediction", "references")))
    assert rows["all/lora"].values["sari"].mean == pytest.approx(whole.sari)
    assert rows["source copied"].difference is not None and "untrained model" in rows
    assert not any(record["source"] in text for record in texts for text in written)


def test_the_demo_lends_no_predictor(config):
    with pytest.raises(LayerSelectError, match="each run makes one of its own: give a model folder"):
        replace(config, base={**config.base, "model": "demo"})
