"""A comparison of tiny runs: what is kept, what fails and how, what the tables and the page say."""

import csv
import io
import json
import logging
import shutil
import signal
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from layerselect import LayerSelectError
from layerselect.report.compare import render, write_compare_report
from layerselect.report.compare_figures import spread_out
from layerselect.tasks.compare import (
    TASKS,
    CompareConfig,
    comparison_rows,
    csv_table,
    markdown_table,
    run_compare,
    worker,
    workshop,
)
from layerselect.tasks.compare import runs as runs_module
from layerselect.tasks.compare.launching import Means
from layerselect.tasks.compare.page import compare_report

from tests.helpers import tiny_intent
from tests.helpers.figures import drawn_once  # noqa: F401


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_intent.corpus_file(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def config(corpus, bert_folder, tmp_path_factory):
    base = {
        "data": str(corpus),
        "model": str(bert_folder),
        "max_steps": 4,
        "eval_steps": 2,
        "batch_size": 8,
        "keep": "last",
        "device": "cpu",
        "measure_memory": True,
    }
    return CompareConfig(
        out=str(tmp_path_factory.mktemp("out") / "c"),
        base=base,
        methods=("all", "upper:p=0.4"),
        seeds=2,
        bootstrap=50,
        threads=1,
    )


def in_this_process(task, settings, log, threads, running, on_note, on_part):
    """Trains a run here: without the seconds that a new process takes to import everything."""
    try:
        TASKS[task].run(TASKS[task].config(**settings), resume=True)
    except LayerSelectError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def done(config):
    events = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workshop, "train_run", in_this_process)
        return run_compare(config, on_event=lambda kind, record: events.append(record)), events


def test_every_run_is_a_finished_run(done, config):
    comparison, events = done
    assert [r.run.name for r in comparison.results] == [
        "all-lora-seed0",
        "all-lora-seed1",
        "upper-p-0.4-lora-seed0",
        "upper-p-0.4-lora-seed1",
    ]
    assert comparison.failed == []
    assert [e.get("state") for e in events].count("finished") == 4
    for result in comparison.results:
        assert result.training["steps"] == 4
        assert list(result.steps) == [2, 4]
        assert result.statistics["test"].shape == comparison.examples[None]["test"].labels.shape


def test_a_kept_run_has_the_same_bytes_in_every_process(done, config):
    """Sets of names have another order in each process."""
    paths = list((Path(config.out) / "kept").glob("*-seed?.json"))
    assert len(paths) == 4
    for path in paths:
        for split in json.loads(path.read_text())["reports"].values():
            assert all(list(report) == sorted(report) for report in split.values())


def test_rows(done):
    comparison, _ = done
    rows = comparison_rows(comparison)
    baselines = ["majority class", "logistic regression", "text regression"]
    assert [row.name for row in rows] == [*baselines, "all/lora", "upper:p=0.4/lora"]
    everything, upper = rows[3], rows[4]
    assert everything.difference is None
    assert upper.difference.seeds == 2
    # One of three equal layers, and the same parameters outside of them.
    layers = 3 * (everything.values["trained_parameters"].mean - upper.values["trained_parameters"].mean) / 2
    assert 0 < layers < everything.values["trained_parameters"].mean
    assert upper.values["saved_mb"].mean < everything.values["saved_mb"].mean
    assert everything.values["steps_to_95"].mean in (2, 3, 4)
    assert everything.values["peak_memory_mb"].mean > 10


@pytest.mark.parametrize(
    ("steps", "quality", "seeds", "words"),
    [
        (50, 0.9, 2, "all/lora"),
        (19, 0.9, 2, "too few steps to compare"),
        (50, 0.0, 2, "neither has learned more than the majority class"),
        (50, 0.9, 1, "one seed is too few to compare"),
    ],
)
def test_nothing_is_claimed_from_nothing(done, steps, quality, seeds, words):
    comparison, _ = done

    def changed(result):
        report = {**result.reports["test"]["trained model"], "macro_f1": quality}
        reports = {**result.reports, "test": {**result.reports["test"], "trained model": report}}
        return replace(result, training={**result.training, "steps": steps}, reports=reports)

    results = [changed(result) for result in comparison.results if result.run.seed < seeds]
    rows = comparison_rows(replace(comparison, results=results))
    trained = [row for row in rows if row.difference is not None and row.what != "baseline"]
    sentences = [row.sentence("all/lora", 0.02) for row in trained]
    assert sentences and all(words in sentence for sentence in sentences)
    assert all((row.verdict == "undecided") for row in trained if words != "all/lora")
    assert all(("95%" in sentence or "90%" in sentence) is (words == "all/lora") for sentence in sentences)


def test_tables(done):
    comparison, _ = done
    rows = comparison_rows(comparison)
    text = markdown_table(comparison, rows)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert "too few steps to compare" in text and "(+" not in text and "(-" not in text
    table = list(csv.DictReader(csv_table(comparison.config.kind, rows).splitlines()))
    assert [line["row"] for line in table] == [row.name for row in rows]
    assert float(table[3]["macro_f1"]) == pytest.approx(rows[3].values["macro_f1"].mean)
    assert table[3]["verdict"] == "" and table[4]["verdict"] == "undecided"


def test_the_page_has_everything_and_loads_nothing(done, tmp_path):
    comparison, _ = done
    rows = comparison_rows(comparison)
    page = render(compare_report(comparison, rows))
    assert page.count("<svg") >= 2 + 2  # quality, curves, and a map for each method
    assert "<img" not in page and "<link" not in page and "<script" not in page and "url(http" not in page
    write_compare_report(tmp_path / "report.html", compare_report(comparison, rows))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_names_are_escaped(done):
    comparison, _ = done
    base = {**comparison.config.base, "data": "<script>alert(1)</script>"}
    page = render(
        compare_report(replace(comparison, config=replace(comparison.config, base=base)), comparison_rows(comparison))
    )
    assert "<script>" not in page


def test_what_is_finished_is_kept_and_a_failed_run_leaves_the_rest(done, config, monkeypatch):
    started = []

    def train_run(task, settings, log, threads, running, on_note, on_part):
        started.append(settings["rule"])
        if settings["rule"] == "topk:k=1":
            return "killed by SIGKILL (out of memory?)"
        return in_this_process(task, settings, log, threads, running, on_note, on_part)

    monkeypatch.setattr(workshop, "train_run", train_run)
    methods = (*config.methods, "topk:k=1", "fixed:layers=[9]")
    comparison = run_compare(replace(config, methods=methods, seeds=1))
    assert started == ["topk:k=1", "fixed:layers=[9]"]
    reasons = [result.reason for result in comparison.failed]
    assert reasons[0] == "killed by SIGKILL (out of memory?)"
    assert "layer 9 is none of the 3 layers" in reasons[1]
    rows = comparison_rows(comparison)
    by_name = {row.name: row for row in rows}
    assert by_name["topk:k=1/lora"].values == {}
    assert by_name["all/lora"].seeds == 1
    text = markdown_table(comparison, rows)
    assert "| topk:k=1/lora | failed |" in text
    assert "topk:k=1/lora failed, seed 0: killed by SIGKILL" in text
    assert "failed: seed 0: killed by SIGKILL" in render(compare_report(comparison, rows))
    # Tried again, and now it works.
    monkeypatch.setattr(workshop, "train_run", in_this_process)
    again = run_compare(replace(config, methods=(*config.methods, "topk:k=1"), seeds=1))
    assert again.failed == []


def test_processes_run_side_by_side_and_one_that_diverges_says_so(config, tmp_path):
    diverging = CompareConfig(
        out=str(tmp_path / "d"),
        base={**config.base, "lr": 1e30, "lr_warmup": 0.0},
        methods=("all", "none"),
        seeds=1,
        jobs=2,
        threads=1,
    )
    for result in run_compare(diverging).results:
        assert "diverged" in result.reason
    assert "Traceback" not in (tmp_path / "d" / "runs" / "all-lora-seed0.log").read_text()


class FakeProcess:
    """Stands for a run's process: reads its settings, writes some lines, and is gone."""

    def __init__(self, returncode, output=""):
        self.returncode, self.stdin, self.stdout = returncode, io.StringIO(), io.StringIO(output)

    def wait(self):
        return self.returncode


def test_a_killed_process_names_its_signal(tmp_path, monkeypatch):
    monkeypatch.setattr(runs_module.subprocess, "Popen", lambda *args, **kwargs: FakeProcess(-signal.SIGKILL))
    reason = runs_module.train_run("intent", {}, tmp_path / "log", Means(1), set(), print, print)
    assert reason == "killed by SIGKILL (out of memory?)"


def test_what_a_run_wants_to_be_shown_is_passed_on_and_all_it_says_is_logged(tmp_path, monkeypatch):
    said = "a warning\nnote: about 3 GB\nmore\n"
    monkeypatch.setattr(runs_module.subprocess, "Popen", lambda *args, **kwargs: FakeProcess(0, said))
    notes = []
    assert runs_module.train_run("intent", {}, tmp_path / "log", Means(1), set(), notes.append, print) is None
    assert notes == ["about 3 GB"]
    assert (tmp_path / "log").read_text() == said


def test_what_a_run_warns_of_is_shown_but_for_what_is_said_of_the_corpus(config, tmp_path, monkeypatch, capsys):
    package = logging.getLogger("layerselect")
    monkeypatch.setattr(package, "handlers", [])
    settings = {**config.base, "out": str(tmp_path / "run"), "max_length": 8, "max_steps": 1, "seed": 0}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({"task": "intent", "settings": settings})))
    monkeypatch.setattr(sys, "argv", ["worker"])
    assert worker.main() == 0
    logging.getLogger("layerselect.data.load").warning("a row is malformed")
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith(runs_module.NOTE)]
    assert any("inputs are longer than 8 tokens and were cut: raise --max-length" in line for line in said)
    assert not any("malformed" in line for line in said)


def test_damaged_results_are_a_failure(done, tmp_path):
    comparison, _ = done
    result = comparison.results[0]
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "results.json").write_text("{")
    assert "cannot be read" in runs_module.read_run(result.run, folder).reason


def test_other_settings_and_other_folders_are_refused(done, config, tmp_path):
    other = CompareConfig(out=config.out, base={**config.base, "batch_size": 4}, methods=("all",))
    with pytest.raises(LayerSelectError, match="has --batch-size 8, not 4"):
        run_compare(other)
    (tmp_path / "precious").write_text("x")
    with pytest.raises(LayerSelectError, match="no comparison of layerselect made"):
        run_compare(CompareConfig(out=str(tmp_path), base=config.base, methods=("all",)))
    with pytest.raises(LayerSelectError, match="is a file"):
        run_compare(CompareConfig(out=str(tmp_path / "precious"), base=config.base, methods=("all",)))


@pytest.mark.parametrize("wrong", [{"model": "./none-here"}, {"data": "./none-here.csv"}])
def test_what_cannot_be_read_leaves_nothing_behind(done, config, tmp_path, wrong):
    """So that the same place takes the right name, and what is finished there is not lost to a wrong one."""
    base = {**config.base, **wrong}
    with pytest.raises(LayerSelectError, match="there is no .*none-here"):
        run_compare(replace(config, base=base, out=str(tmp_path / "c")))
    assert list(tmp_path.iterdir()) == []
    folder = tmp_path / "finished"
    shutil.copytree(config.out, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(LayerSelectError, match="there is no .*none-here"):
        run_compare(replace(config, base=base, out=str(folder)), overwrite=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    # Other settings have other defaults; the message names what was meant.
    with pytest.raises(LayerSelectError, match=f"has --{next(iter(wrong))} "):
        run_compare(replace(config, base=base, out=str(folder)))


def test_a_split_that_is_not_there(done):
    comparison, _ = done
    with pytest.raises(LayerSelectError, match="--split dev: the corpus has"):
        _ = replace(
            comparison, config=CompareConfig(out="x", base=comparison.config.base, methods=("all",), split="dev")
        ).split


def test_names_beside_a_figure_keep_their_order_and_their_distance():
    heights = [0.5, 0.5, 0.51, 0.52, 0.9]
    moved = spread_out(heights, 0.0, 1.0)
    assert moved == sorted(moved)
    assert all(b - a >= 0.06 - 1e-12 for a, b in pairwise(moved))
    assert moved[0] == 0.5 and moved[-1] == 0.9
    assert spread_out([0.2, 0.8], 0.0, 1.0) == [0.2, 0.8]
    crowded = spread_out([0.99] * 25, 0.0, 1.0)
    assert crowded[0] >= 0.02 - 1e-12 and crowded[-1] <= 0.98 + 1e-12
    assert all(b - a >= 0.04 - 1e-12 for a, b in pairwise(crowded))
    assert spread_out([], 0.0, 1.0) == []
