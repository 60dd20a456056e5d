"""A comparison by folds, trained: what is kept, what a rerun gives, and how it goes on after it was stopped."""

import shutil
from dataclasses import replace

import pytest
from layerselect.tasks.compare import CompareConfig, comparison_rows, read_comparison, run_compare, workshop
from layerselect.tasks.compare.counts import IntentCounts
from layerselect.tasks.compare.run import plan_compare
from layerselect.tasks.compare.state import saved_config

from tests.helpers import tiny_intent
from tests.tasks.compare.test_run import in_this_process


@pytest.fixture(scope="module")
def config(bert_folder, tmp_path_factory):
    corpus = tiny_intent.corpus_file(tmp_path_factory.mktemp("corpus"))
    base = {"data": str(corpus), "model": str(bert_folder), "max_steps": 2, "batch_size": 8, "device": "cpu"}
    out = tmp_path_factory.mktemp("out") / "c"
    return CompareConfig(out=str(out), base=base, methods=("all", "none"), folds=2, seeds=1, bootstrap=50, threads=1)


@pytest.fixture(scope="module")
def done(config):
    """The comparison, stopped after three of its four runs and then continued."""
    started = []

    def interrupted(task, settings, *rest):
        started.append(settings["out"].rpartition("/")[2])
        if len(started) == 4:
            raise KeyboardInterrupt
        return in_this_process(task, settings, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workshop, "train_run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_compare(config)
        between = read_comparison(config)
        run_compare(config)
    return started, between, read_comparison(config)


def test_an_interrupted_comparison_goes_on(done):
    started, between, after = done
    assert started == [
        *("all-lora-seed0-fold1", "none-lora-seed0-fold1", "all-lora-seed0-fold2", "none-lora-seed0-fold2"),
        "none-lora-seed0-fold2",
    ]
    assert [result.reason for result in between.results].count("not finished") == 1
    assert all(result.reason is None for result in after.results)
    rows = {row.name: row for row in comparison_rows(after)}
    assert list(rows) == ["majority class", "logistic regression", "text regression", "all/lora", "none/lora"]
    assert rows["logistic regression"].difference.documents == 12
    assert rows["none/lora"].unclear == "one seed is too few to compare"


def test_a_plan_writes_nothing(done, config, tmp_path):
    """Not even what is kept of a run whose folder is complete."""
    place = tmp_path / "c"
    shutil.copytree(done[2].folder, place)
    (place / "kept" / "all-lora-seed0-fold1.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    plan = plan_compare(replace(config, out=str(place)))
    assert [run["finished"] for run in plan["runs"]] == [True] * 4
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before


def test_a_choice_is_made_inside_the_training_folds(config):
    for run in config.runs():
        corpus = config.settings(run, config.out).load_corpus()
        documents = {name: set(split["doc_id"]) for name, split in corpus.splits.items()}
        assert set(documents) == {"train", "validation", "test"}
        assert not documents["test"] & (documents["train"] | documents["validation"])


def test_a_rerun_gives_the_same_bytes(done, config, tmp_path, monkeypatch):
    monkeypatch.setattr(workshop, "train_run", in_this_process)
    again = replace(config, out=str(tmp_path / "again"), methods=("all",))
    run_compare(again)
    for name in (
        "all-lora-seed0-fold1.json",
        "all-lora-seed0-fold2.json",
        "examples-fold1.json",
        "baselines-fold2.json",
    ):
        assert (tmp_path / "again" / "kept" / name).read_bytes() == (done[2].folder / "kept" / name).read_bytes(), name


def test_what_is_kept_is_enough_to_go_on(done, tmp_path, monkeypatch):
    """The folder of a committed measurement has no runs; rows and seeds are added to it all the same."""
    place = tmp_path / "c"
    shutil.copytree(done[2].folder / "kept", place / "kept")
    shutil.copy(done[2].folder / "compare.json", place)
    started = []

    def train_run(task, settings, *rest):
        started.append(settings["out"].rpartition("/")[2])
        return in_this_process(task, settings, *rest)

    monkeypatch.setattr(workshop, "train_run", train_run)
    added = saved_config(place, add=("all/lora@50%",), bootstrap=50)
    comparison = run_compare(added)
    assert started == ["all-lora-50pc-seed0-fold1", "all-lora-50pc-seed0-fold2"]
    assert all(result.reason is None for result in comparison.results)
    rows = comparison_rows(comparison)
    assert rows[-1].name == "all/lora@50%"
    assert [row.name for row in rows[1:5]] == [
        *("logistic regression", "text regression", "logistic regression@50%", "text regression@50%")
    ]
    # They learned from what the row did: a run measures the first one itself.
    for result in comparison.results[-2:]:
        fold = result.run.fold
        kept = comparison.baselines[fold]["logistic regression@50%"]["test"]
        found = IntentCounts().pooled(kept, comparison.examples[fold]["test"])
        assert found["macro_f1"] == pytest.approx(result.reports["test"]["logistic regression"]["macro_f1"])
        assert (kept != comparison.baselines[fold]["logistic regression"]["test"]).any()
