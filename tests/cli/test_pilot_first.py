"""``layerselect intent --pilot``: what is found out before the pilot is run, and what its training takes from it."""

from __future__ import annotations

import json

import pytest
from layerselect.cli.main import main
from layerselect.placement import Placement
from layerselect.tasks.pilot import following
from layerselect.tasks.pilot import run as module

from tests.helpers import tiny_intent

PLAN = {
    "out": "p",
    "model": "m",
    "layers": 3,
    "examples": 40,
    "steps": 20,
    "held_out": 20,
    "trainings": 8,
    "candidates": ["upper:1", "upper:2"],
    "left_out": [],
    "cost": 0.09,
}


_OF_CACHE = ("state_cache", "cut", "state_cache_store")


@pytest.fixture
def typed(tmp_path, monkeypatch):
    """The command as far as the options that a test adds; its pilot fails when it is run."""

    def never(*args, **kwargs):
        pytest.fail("the pilot was run")

    monkeypatch.setattr(module, "run_pilot", never)
    data = tiny_intent.corpus_file(tmp_path)
    return [
        "intent",
        "--data",
        str(data),
        "--model",
        "demo",
        "--pilot",
        str(tmp_path / "p"),
        "--out",
        str(tmp_path / "o"),
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--patience", "-1"], "--patience -1 must be at least 1"),
        (["--blend", "7"], "--blend 7.0 must be at most 1"),
        (["--state-cache-memory", "lots"], "--state-cache-memory lots is no size"),
        (["--cut", "2"], "--pilot chooses the layers, and so does --cut"),
        (["--budget", "0.5", "--mode", "gate"], "--mode gate computes them in every step: leave out --mode"),
    ],
)
def test_a_training_that_could_not_follow_is_refused_before_the_pilot(typed, capsys, more, message):
    assert main([*typed, *more]) == 2
    assert message in capsys.readouterr().err


def test_a_place_that_is_taken_is_refused_before_the_pilot(typed, tmp_path, capsys):
    assert main([*typed, "--out", str(tmp_path / "p")]) == 2
    assert "--pilot and --out are both" in capsys.readouterr().err
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "notes.txt").write_text("mine")
    assert main(typed) == 2
    assert str(tmp_path / "o") in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "o").iterdir()} == {"notes.txt"}


def test_a_dry_run_says_what_the_pilot_would_do(typed, tmp_path, monkeypatch, capsys):
    jobs = []
    monkeypatch.setattr(module, "plan_pilot", lambda job: jobs.append(job) or {**PLAN, "out": job.training.out})
    before = sorted(tmp_path.iterdir())
    assert main([*typed, "--budget", "0.5", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "at most 8 trainings of 20 steps" in said and f"then: trains what it chooses, {tmp_path / 'o'}" in said
    assert main([*typed, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["then"] == str(tmp_path / "o")
    assert [job.budget for job in jobs] == [0.5, None] and sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("more", "found", "kept"),
    [
        ([], {"state_cache": "cached", "cut": "2"}, {"state_cache": "cached", "cut": "2", "state_cache_store": "s"}),
        ([], {}, {}),  # nothing can be cached
        (["--mode", "gate"], {"state_cache": "cached", "cut": "2"}, {"mode": "gate", "state_cache_store": "s"}),
        (["--state-cache", "auto", "--cut", "1"], {}, {"state_cache": "auto", "cut": "1", "state_cache_store": "s"}),
    ],
)
def test_options_of_a_cache_are_for_the_cache_that_the_pilot_finds(typed, tmp_path, monkeypatch, more, found, kept):
    place = tmp_path / "p"
    place.mkdir()
    Placement([2], names=["a", "b", "c"], cost=0.4).save(place)
    (place / module.PILOT).touch()
    monkeypatch.setattr(following, "settings_after", lambda folder: {"placement": str(folder), **found})
    settings = []
    monkeypatch.setattr("layerselect.cli.intent.train", lambda given, args: settings.append(given) or 0)
    assert main([*typed, "--state-cache-store", "s", *more]) == 0
    assert settings[0]["placement"] == str(place)
    assert {name: value for name, value in settings[0].items() if name == "mode" or name in _OF_CACHE} == kept
