"""What `--state-cache` refuses, foresees and reports."""

import json
import logging
from collections import namedtuple

import pytest
from layerselect.cli import main
from layerselect.report.state_cache import cache_facts_line, cache_size_line
from layerselect.tasks.compare import worker
from layerselect.tasks.intent import run_intent
from layerselect.tasks.run import state_cache as run_cache

from tests.tasks.intent.test_run import settings
from tests.tasks.run.cached import kept


@pytest.fixture
def intent(capsys, tmp_path, small_corpus, bert_folder, llama_folder):
    """Runs ``layerselect intent`` with more options; returns (status, stdout, stderr)."""

    def run(*extra, model="bert"):
        folder = {"bert": bert_folder, "llama": llama_folder}[model]
        given = [
            "--data",
            small_corpus,
            "--model",
            folder,
            "--out",
            tmp_path / "out",
            "--max-steps",
            2,
            "--threads",
            1,
            "--device",
            "cpu",
        ]
        capsys.readouterr()
        status = main(["intent", *map(str, given), *extra])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


BAD = {
    "a cut without a state cache": (["--cut", "2"], "--cut 2 says nothing without --state-cache cached"),
    "a store without a state cache": (
        ["--state-cache-store", "x"],
        "--state-cache-store x says nothing without --state-cache cached",
    ),
    "layers that take gradients": (
        ["--state-cache", "cached", "--mode", "gate"],
        "--state-cache cached needs --mode auto or freeze, not gate",
    ),
    "no layer below": (["--state-cache", "cached", "--cut", "0"], "--cut 0 must be at least 1"),
    "no layer above": (
        ["--state-cache", "auto", "--cut", "3"],
        "--cut 3 leaves no layer above it: the model has 3 layers",
    ),
    "an unknown rule": (
        ["--state-cache", "auto", "--cut", "best"],
        "--cut best is neither a number of layers nor a rule",
    ),
    "no size": (["--state-cache", "auto", "--state-cache-memory", "much"], "--state-cache-memory much is no size"),
    "nothing trains": (
        ["--state-cache", "cached", "--cut", "2", "--head", "generate", "--rule", "fixed:layers=[0,1]"],
        "nothing would train: the rule selects the layers [0, 1], all below the cut",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_one_line_for_what_cannot_be(intent, tmp_path, monkeypatch, case):
    monkeypatch.setenv("LAYERSELECT_CACHE", str(tmp_path / "cache"))
    options, words = BAD[case]
    status, _, error = intent(*options, model="llama" if "generate" in options else "bert")
    assert status == 2
    assert len(error.strip().splitlines()) == 1
    assert words in error
    assert list(tmp_path.iterdir()) == []


def test_something_below_the_cut_that_trains_is_found_before_anything_is_written(intent, tmp_path, monkeypatch):
    from layerselect.tasks.run import model as made

    def with_embeddings(loaded, config, real=made.add_adapter):
        model = real(loaded, config)
        model.get_input_embeddings().requires_grad_(True)
        return model

    monkeypatch.setattr(made, "add_adapter", with_embeddings)
    for cut in ("2", "probe-once"):
        status, _, error = intent(
            "--state-cache", "cached", "--cut", cut, "--state-cache-store", str(tmp_path / "store")
        )
        assert status == 2
        assert "embeddings.weight trains and stands below the cut" in error
        assert len(error.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_foreseen(tmp_path, small_corpus, bert_folder, monkeypatch, caplog):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(run_cache.shutil, "disk_usage", lambda place: usage(10**9, 10**9, 1000))
    options = {"adapter": "lora", "epochs": 1, **kept(tmp_path / "store")}
    with caplog.at_level(logging.WARNING, "layerselect"):
        run_intent(settings(small_corpus, bert_folder, tmp_path / "a", **options))
    (warning,) = [r.getMessage() for r in caplog.records if "--state-cache-store" in r.getMessage()]
    assert "where 1 KB are free" in warning
    assert "--state-cache-precision half" in warning
    caplog.clear()
    run_intent(settings(small_corpus, bert_folder, tmp_path / "b", **options))  # now it is all there
    assert not [r for r in caplog.records if "--state-cache-store" in r.getMessage()]


def test_the_size_is_said_and_what_came_of_it(intent, tmp_path, pages):
    options = ["--state-cache", "cached", "--cut", "2", "--state-cache-store", str(tmp_path / "store")]
    status, out, error = intent(*options)
    assert status == 0
    said = next(line for line in error.splitlines() if line.startswith("hidden states"))
    assert said.startswith("hidden states below layer 2 of 3: 128 bytes a token, about ")
    assert said.endswith(f"in {tmp_path / 'store'} (up to 2 GB of it also in memory)")
    facts = json.loads((tmp_path / "out" / "results.json").read_text())["training"]
    assert cache_facts_line(facts) in out
    assert "s in the last epoch)" in out
    assert facts["last_epoch_seconds_per_step"] == facts["median_seconds_per_step"]  # there was but one
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Hidden states below layer 2 of 3" in page


def test_a_cell_of_a_comparison_says_it_too(capsys):
    record = {
        "cut": 1,
        "layers": 3,
        "bytes_per_token": 64,
        "tokens": 10,
        "bytes": 640,
        "folder": None,
        "memory": 10**9,
        "warning": "full",
    }
    tell = worker._Teller()
    tell("state_cache", record)
    tell("stage", {"name": "training"})
    tell("step", {"step": 1, "steps": 3})  # too soon after the last line
    tell("eval", {"split": "test"})
    tell._told = 0.0
    tell("step", {"step": 2, "steps": 4})
    assert capsys.readouterr().out.splitlines() == [
        f"note: {cache_size_line(record)}",
        "note: full",
        'so far: {"text": "training"}',
        'so far: {"text": "training 2 of 4", "share": 0.5}',
    ]


def test_facts_where_nothing_was_kept():
    assert cache_facts_line({"steps": 3}) is None
    assert "ended before the cut was chosen" in cache_facts_line({"states_cached": False, "cut": None})
    assert "selects the lowest layer" in cache_facts_line({"states_cached": False, "cut": 0})
    line = cache_facts_line({"states_cached": False, "cut": 22, "num_layers": 30})
    assert "below layer 22 of 30, which never trained" in line
