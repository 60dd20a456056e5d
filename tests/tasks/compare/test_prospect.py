"""What a comparison says before it trains: differences that it can tell, and how long it takes."""

from dataclasses import replace

import pytest
from layerselect.cli.compare_display import prospect_lines
from layerselect.report.numbers import long_time
from layerselect.tasks.compare.estimate import Duration, from_finished, from_trial
from layerselect.tasks.compare.kept import KeptRuns
from layerselect.tasks.compare.power import Power
from layerselect.tasks.compare.prospect import Prospect, prospect_of
from layerselect.tasks.compare.state import saved_config

from tests.helpers import kept_comparison, tiny_intent
from tests.tasks.compare.test_run import in_this_process


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return kept_comparison.corpus_file(tmp_path_factory.mktemp("corpus") / "c.csv")


def test_finished_runs_say_how_long_the_others_take_and_what_they_will_tell(corpus, tmp_path):
    unfinished = tuple(f"ir-lora-seed{seed}-fold3" for seed in (0, 1))
    kept_comparison.make(tmp_path / "c", corpus, skills={"all": 0.9, "ir": 0.8}, unfinished=unfinished)
    config = saved_config(tmp_path / "c", bootstrap=50)
    missing = [run for run in config.runs() if run.name in unfinished]
    prospect = prospect_of(config, missing)
    assert prospect.duration == Duration(100.0, "the finished runs")
    assert (prospect.runs, prospect.tested, prospect.documents) == (2, 120, 60)
    assert prospect.power.measured and prospect.power.difference > 0
    two = from_finished(replace(config, jobs=2), KeptRuns(tmp_path / "c", config.kind), missing)
    assert two.seconds == 50.0
    more = prospect_of(saved_config(tmp_path / "c", seeds=8, bootstrap=50), missing)
    assert more.power.difference < prospect.power.difference


def test_before_any_run_what_was_measured_elsewhere_is_said(corpus, tmp_path):
    config = kept_comparison.make(tmp_path / "c", corpus, skills={"all": 0.9, "ir": 0.8})
    fresh = replace(config, out=str(tmp_path / "new"))
    prospect = prospect_of(fresh, fresh.runs())
    assert prospect.power.measured is False and prospect.duration is None
    assert prospect_of(replace(fresh, seeds=1), fresh.runs()).power is None
    assert prospect_of(replace(fresh, methods=("all",)), fresh.runs()).power is None


def test_a_trial_of_a_few_steps_says_how_long_runs_take(bert_folder, tmp_path):
    data = tiny_intent.corpus_file(tmp_path)
    base = {"data": str(data), "model": str(bert_folder), "max_steps": 400, "device": "cpu"}
    config = kept_comparison.CompareConfig(out=str(tmp_path / "c"), base=base, methods=("all", "none"), seeds=1)
    (tmp_path / "c" / "runs").mkdir(parents=True)
    tried = []

    def train(run, task, settings, log):
        tried.append((run.name, settings["max_steps"]))
        return in_this_process(task, settings, log, 1, set(), print, print)

    examples = {"train": 60, "validation": 6, "test": 6}
    found = from_trial(config, config.runs(), examples, train)
    assert tried == [("all-lora-seed0", 4)]
    assert found.by == "4 steps of all/lora" and found.seconds > 0
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["runs"]
    # Where all is soon done, nothing is tried; where it fails, the run itself will say why.
    assert from_trial(config, config.runs()[:1], examples, train) is None
    assert from_trial(config, config.runs(), examples, lambda *rest: "it failed") is None


def test_a_trial_leaves_out_what_is_measured_besides(tmp_path):
    """A text that is read twice, and examples in front of every prompt, took minutes before the first run began."""
    other = tmp_path / "other.txt"
    other.write_text("The tide came in over the flats before noon.")
    base = {"data": "demo", "model": "demo", "shots": 3, "forgetting": str(other), "max_steps": 400}
    config = kept_comparison.CompareConfig(
        task="revise", out=str(tmp_path / "c"), base=base, methods=("all", "ir"), adapters=("none",), seeds=1
    )
    tried = []
    from_trial(config, config.runs(), {"train": 60}, lambda run, task, settings, log: tried.append(settings) or "no")
    (settings,) = tried
    assert (settings["shots"], settings["untrained"], settings["forgetting"]) == (0, False, None)
    assert config.settings(config.runs()[0], "x").as_dict()["shots"] == 3


def test_sentences():
    power = Power(331, 2, 0.0123, 0.61, True)
    prospect = Prospect(70, 3600, 331, "all/lora", "macro-F1", 0.02, power, Duration(7000.0, "4 steps of all/lora"))
    first, second = prospect_lines(prospect)
    assert "3,600 rows of 331 documents, 2 seeds: a difference of about 0.012 macro-F1 from all/lora" in first
    assert "as good within 0.02 in 61%" in first and "elsewhere" not in first
    assert second == "70 runs to train: about 1.9 h, by 4 steps of all/lora"
    (unknown,) = prospect_lines(replace(prospect, power=None, duration=None))
    assert "is known when two seeds of two rows are finished" in unknown
    assert [long_time(seconds) for seconds in (5, 300, 5400, 86400, 6e5)] == [
        "1 min",
        "5 min",
        "1.5 h",
        "24.0 h",
        "7 days",
    ]
