"""A whole pilot on a tiny model: what it writes, how it goes on after a kill, what it has room for and refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from layerselect import LayerSelectError
from layerselect.cli import main
from layerselect.costs import LayerCosts
from layerselect.placement import Placement
from layerselect.report import write_pilot_report
from layerselect.tasks.intent import IntentConfig, run_intent
from layerselect.tasks.pilot.following import settings_after
from layerselect.tasks.pilot.names import Scouted, asked_candidates
from layerselect.tasks.pilot.run import PilotJob, plan_pilot, run_pilot
from layerselect.tasks.pilot.settings import PilotSettings
from layerselect.tasks.pilot.sizes import Corpus, NoRoom, sizes_of

from tests.helpers import tiny_intent

NAMES = [f"encoder.{number}" for number in range(6)]
COSTS = LayerCosts((1.0,) * 6, (1.0,) * 6, (0.1,) * 6, 1.0)


@pytest.fixture(scope="module")
def job(bert_folder, tmp_path_factory):
    corpus = tiny_intent.corpus_file(tmp_path_factory.mktemp("corpus"), documents=24)
    training = IntentConfig(
        data=str(corpus),
        model=str(bert_folder),
        out=str(tmp_path_factory.mktemp("out") / "pilot"),
        batch_size=8,
        lr=5e-3,
        device="cpu",
        max_steps=40,
    )
    return PilotJob(
        training=training, candidates="head,upper:1,ir:1,layers:0+2", max_cost=20, steps=6, held_out=20, folds=2
    )


@pytest.fixture(scope="module")
def done(job):
    """The pilot, stopped in its second round and then continued: what was trained before and after, and the result."""
    trained: list[str] = []

    def stop(kind, record):
        if kind == "trained" and not record["idle"]:
            trained.append(record["candidate"])
            if len(trained) == 9:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pilot(job, on_event=stop)
    kept = {path.name: path.stat().st_mtime_ns for path in (job_folder(job) / "kept").iterdir()}
    finished = run_pilot(job)
    same = {name: (job_folder(job) / "kept" / name).stat().st_mtime_ns for name in kept}
    assert same == kept and len(kept) > 9
    return finished


@pytest.fixture(scope="module")
def page(done, job):
    """Of the same pilot, once more, since its page was not drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("layerselect.tasks.pilot.run.write_pilot_report", write_pilot_report)
        run_pilot(job)
    return (job_folder(job) / "pilot.html").read_text()


def job_folder(job):
    return Path(job.training.out)


def test_it_writes_a_placement_and_a_page(done, job, page):
    folder = job_folder(job)
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "kept",
        "pilot.html",
        "pilot.json",
        "placement.json",
    }
    saved = json.loads((folder / "pilot.json").read_text())
    assert saved["schema"] == "layerselect.pilot" and saved["answer"]["chosen"] == done.result.answer.chosen
    assert {each["name"] for each in saved["candidates"]} <= {"head", "upper:1", "ir:1", "layers:0+2"}
    placement = Placement.load(folder)
    assert bool(placement.doubt) is not done.result.answer.sure
    assert 0 < done.result.cost <= done.sizes.most + 1e-9 and done.sizes.most <= job.max_cost
    assert done.result.answer.chosen in page and "<script" not in page and 'src="http' not in page
    kept = json.loads((folder / "kept" / "head-seed0-fold0.json").read_text())
    assert set(kept) == {"version", "layers", "documents", "counts"}  # numbers, and no text


def test_a_pilot_that_was_not_stopped_gives_the_same(done, job, page, tmp_path):
    unstopped = replace(job, training=replace(job.training, out=str(tmp_path / "again")))
    again = run_pilot(unstopped)
    assert again.to_dict() == done.to_dict()
    # It knows how long it took, also when it is asked again; nobody knows it of the one that was stopped.
    saved = json.loads((tmp_path / "again" / "pilot.json").read_text())
    assert saved["seconds"] > 0 and saved["processor_seconds"] > 0
    announced: list[str] = []
    run_pilot(unstopped, on_event=lambda kind, record: announced.append(kind))
    assert "sized" in announced and "training" not in announced  # what is kept is not trained
    assert json.loads((tmp_path / "again" / "pilot.json").read_text()) == saved
    assert json.loads((job_folder(job) / "pilot.json").read_text())["seconds"] is None
    assert "by the clock" not in page


def test_runs_train_what_was_chosen(done, job, tmp_path):
    run = replace(job.training, out=str(tmp_path / "run"), max_steps=2, placement=str(job_folder(job)), rule="variance")
    result = run_intent(run)
    chosen = json.loads((result.folder / "importance.json").read_text())
    trained = [layer for layer, often in enumerate(chosen["frequency"]) if often]
    assert trained == Placement.load(job_folder(job)).layers


def test_a_plan_says_what_it_costs_and_writes_nothing(job, tmp_path):
    plan = plan_pilot(replace(job, training=replace(job.training, out=str(tmp_path / "p"))))
    assert plan["steps"] == 6 and plan["trainings"] == len(plan["candidates"]) * 4 and 0 < plan["cost"] < 20
    assert list(tmp_path.iterdir()) == []


def test_a_plan_counts_what_a_first_training_will_tell(job, tmp_path):
    """As the dearest of as many layers, whatever else is tried, and whatever a step may cost."""

    def plan(candidates: str, **changes) -> list[str]:
        training = replace(job.training, out=str(tmp_path / "p"))
        return plan_pilot(replace(job, training=training, candidates=candidates, **changes))["candidates"]

    assert plan("ir:1,lower:1,norms:1,upper:1") == ["all", "ir:1", "lower:1", "norms:1", "upper:1"]
    assert plan("layers:0,lower:1,norms:1") == ["all", "layers:0", "norms:1"]
    assert plan("norms:1,lower:1,upper:1", budget=0.01) == ["all", "norms:1"]


def test_another_pilot_or_folder_is_left_alone(done, job, tmp_path):
    with pytest.raises(LayerSelectError, match=r"has --margin 0\.02, not 0\.03: repeat its options"):
        run_pilot(replace(job, margin=0.03))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("x")
    with pytest.raises(LayerSelectError, match="is a folder that no pilot of layerselect made"):
        run_pilot(replace(job, training=replace(job.training, out=str(tmp_path / "mine"))))
    with pytest.raises(LayerSelectError, match="is a file"):
        run_pilot(replace(job, training=replace(job.training, out=str(tmp_path / "mine" / "file"))))


def test_where_there_is_no_room_nothing_is_left(done, job, tmp_path):
    """So that the same folder takes other options, and a finished pilot is not lost to one that cannot be run."""
    new = replace(job, training=replace(job.training, out=str(tmp_path / "p")), max_cost=0.01)
    for candidates in ("upper:1", "ir:1,upper:1"):
        with pytest.raises(NoRoom, match="has no room for"):
            run_pilot(replace(new, candidates=candidates))
        assert list(tmp_path.iterdir()) == []
    folder = tmp_path / "finished"
    shutil.copytree(job_folder(job), folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(NoRoom):
        run_pilot(replace(new, training=replace(job.training, out=str(folder)), overwrite=True))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_the_command(done, job, capsys):
    training = job.training
    options = ["pilot", "--data", training.data, "--model", training.model, "--out", training.out, "--device", "cpu"]
    own = ["--candidates", job.candidates, "--max-cost", "20", "--steps", "6", "--held-out", "20", "--folds", "2"]
    more = ["--batch-size", "8", "--lr", "5e-3", "--max-steps", "40", "--threads", "1"]
    assert main([*options, *own, *more]) == 0
    found = capsys.readouterr()
    assert f"chosen: {done.result.answer.chosen}" in found.out and "reference" in found.out
    assert "of one full training" in found.err
    assert main([*options, *own, *more, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answer"]["chosen"] == done.result.answer.chosen
    for wrong, message in (
        (["--candidates", "upper:9"], "upper:9 asks for 9 of 3 layers"),
        (["--candidates", "odd"], "'odd' is none of all, head"),
        (["--candidates", "layers:1+7"], "the model has the layers 0 to 2"),
        (["--margin", "0"], "--margin 0.0 must be above 0"),
        (["--max-cost", "0.01"], "has no room for"),
    ):
        assert main([*options, *own, *more, "--out", training.out + "-wrong", *wrong]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*options, *own, *more, "--rule", "all"])  # which the pilot chooses


def test_a_training_takes_what_its_pilot_finds(done, job, tmp_path, capsys):
    training = job.training
    options = ["intent", "--data", training.data, "--model", training.model, "--device", "cpu", "--threads", "1"]
    own = ["--batch-size", "8", "--max-steps", "2", "--out", str(tmp_path / "run")]
    assert main([*options, *own, "--pilot", training.out, "--budget", "1"]) == 0
    assert "layerselect pilot: " in capsys.readouterr().err
    saved = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    placement = Placement.load(training.out)
    chosen, less = placement.layers, f"{placement.cost - 0.01:.3f}"
    assert saved["placement"] == training.out and saved["budget"] is None
    cut = min(chosen[0] if chosen else 3, 2)
    assert (saved["state_cache"], saved["cut"]) == (("cached", str(cut)) if cut else ("none", IntentConfig.cut))
    for wrong, message in (
        (["--pilot", training.out, "--rule", "all"], "--pilot chooses the layers, and so does --rule"),
        (["--pilot", str(tmp_path / "new")], "has no room for"),
        (
            ["--pilot", str(tmp_path / "new")],
            f"options of 'layerselect pilot --out {tmp_path / 'new'}': run that first",
        ),
        (["--pilot", training.out, "--budget", "1", "--state-cache", "none"], "leave out --state-cache"),
        (["--pilot", training.out, "--budget", less], f"and --budget is {float(less):g}: give --pilot another folder"),
    ):
        assert main([*options, *own, "--out", str(tmp_path / "other"), *wrong]) == 2
        assert message in capsys.readouterr().err


def test_what_was_chosen_says_how_to_train(done, job, tmp_path):
    folder = tmp_path / "p"
    shutil.copytree(job_folder(job), folder)
    for layers, cut in (([2], "2"), ([], "2"), ([0, 2], None)):
        Placement(layers, names=done.layer_names).save(folder)
        found = settings_after(folder)
        assert found["placement"] == str(folder) and found.get("cut") == cut
    with pytest.raises(LayerSelectError, match="pilot.json"):
        (folder / "pilot.json").unlink()
        settings_after(folder)


def test_losses_tell_too(job, tmp_path):
    training = replace(job.training, out=str(tmp_path / "by-loss"))
    finished = run_pilot(replace(job, training=training, by="loss", candidates="upper:1"))
    looks = finished.result.standings[0].looks
    assert looks and finished.result.reference_quality < 0 and looks[-1].low < looks[-1].high


def test_names_of_candidates():
    asked = asked_candidates("head,upper:2,ir:2,norms:1,layers:5+0", NAMES, head=True)
    assert asked.layers == {"all": (0, 1, 2, 3, 4, 5), "head": (), "upper:2": (4, 5), "layers:5+0": (0, 5)}
    known = asked.known(Scouted([5, 5, 1, 0, 0, 0], [1.0, 3.0, 9.0, 0.0, 0.0, 0.0]))
    assert known["ir:2"] == (0, 1) and known["norms:1"] == (2,) and next(iter(known)) == "all"
    assert "head" not in asked_candidates("usual", NAMES, head=False).layers
    with pytest.raises(LayerSelectError, match="nothing trains outside the layers"):
        asked_candidates("head", NAMES, head=False)


def test_placements_and_cards_are_candidates(tmp_path):
    path = Placement([1, 2], names=NAMES).save(tmp_path)
    assert asked_candidates(f"placement:{path}", NAMES, head=True).layers[f"placement:{path}"] == (1, 2)
    with pytest.raises(LayerSelectError, match="cannot be read"):
        asked_candidates(f"card:{tmp_path}:2", NAMES, head=True)


def sizes(max_cost: float, full: int = 1000, examples: int = 5000, caches: bool = True, **settings):
    layers = {"all": tuple(range(6)), "head": (), "upper:3": (3, 4, 5), "upper:1": (5,), "lower:1": (0,)}
    corpus = Corpus(examples, 16, full)
    return sizes_of(layers, COSTS, corpus, PilotSettings(max_cost=max_cost, **settings), caches=caches)


def test_a_candidate_costs_what_its_training_will():
    """With the layers below it cached they run once for each example, so a longer training of it costs less a step."""

    def cost(name: str, **options) -> float:
        return next(each.cost for each in sizes(9.0, **options).candidates if each.name == name)

    plain = COSTS.step_cost([False, False, False, True, True, True])
    below = COSTS.below_cost(3)
    assert cost("upper:3", caches=False) == pytest.approx(plain)
    # 1,000 steps of 16 see 5,000 examples 3.2 times; 100 steps see none twice.
    assert cost("upper:3") == pytest.approx(plain - below * (1 - 5000 / 16000))
    assert cost("upper:3", full=100) == pytest.approx(plain)
    assert cost("head") == pytest.approx(COSTS.step_cost([False] * 6) - COSTS.below_cost(5) * (1 - 5000 / 16000))
    assert cost("lower:1") == pytest.approx(cost("lower:1", caches=False)) and cost("all") == pytest.approx(1.0)
    # A budget that no placement keeps without a cache is kept with one.
    budget = cost("upper:3") + 0.01
    assert "upper:3" in {each.name for each in sizes(9.0, budget=budget).candidates}
    assert "upper:3" not in {each.name for each in sizes(9.0, budget=budget, caches=False).candidates}


def test_what_there_is_room_for():
    rich, poor = sizes(3.0), sizes(0.55)
    assert (len(rich.candidates) == 5 and rich.most <= 3.0 and rich.steps > poor.steps == 20) or poor.left_out
    assert poor.most <= 0.55
    for found in (rich, poor):
        assert found.most == pytest.approx(8 * sum(each.trial for each in found.candidates))
    # With a cut, candidates above it cost less than they would alone.
    assert rich.cut in (3, 5) and all(rich.cut_of(each) == 0 for each in rich.candidates if 0 in each.layers)
    assert sizes(3.0, steps=50).steps == 50 and sizes(3.0, held_out=10).held_out == 10
    assert {each.name for each in sizes(3.0, budget=0.6, caches=False).candidates} == {"all", "head", "upper:1"}
    with pytest.raises(LayerSelectError, match=r"no room for 8 short trainings of 20 steps .*allow --max-cost"):
        sizes(0.01)
    with pytest.raises(
        LayerSelectError, match=r"no candidate costs at most 0\.1 of a step; allow --budget 0\.\d+, which head costs"
    ):
        sizes(3.0, budget=0.1)
