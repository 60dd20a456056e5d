"""Checkpoints that are whole or not there, and going on from them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from layerselect.integrations.transformers import SelectorCallback, checkpoint_defect, last_checkpoint
from layerselect.tasks.run.checkpoints import SaveSteps, WholeCheckpoints
from transformers import EarlyStoppingCallback, TrainerCallback

from tests.integrations.trainers import assert_same_end, train

#: Epochs of 6 steps; the last one ends after 2. Evaluated and saved after epochs, with the larger loss as the better
#: one.
SETTINGS = {
    "kind": WholeCheckpoints,
    "max_steps": 14,
    "examples": 12,
    "logging_steps": 3,
    "save_strategy": "epoch",
    "eval_strategy": "epoch",
    "evaluates": True,
    "load_best_model_at_end": True,
    "metric_for_best_model": "loss",
    "greater_is_better": True,
    "restore_callback_states_from_checkpoint": True,
    "dropout": 0.1,
}


def run(folder: Path, *extra: TrainerCallback, resume: str | None = None, **changes):
    callback = SelectorCallback(rule="variance", mode="freeze", probe_every=3)
    trainer = train(folder, SaveSteps(4), callback, *extra, resume=resume, **{**SETTINGS, **changes})
    return trainer, callback


def history(trainer) -> list[dict]:
    """The lines of the log, without times."""
    return [
        {name: value for name, value in row.items() if not name.endswith(("runtime", "per_second"))}
        for row in trainer.state.log_history
        if "train_loss" not in row
    ]


class Saves(TrainerCallback):
    """After each save: the checkpoints that lie there, all of them complete."""

    def __init__(self) -> None:
        self.seen: dict[int, list[int]] = {}

    def on_save(self, args, state, control, **kwargs):
        folders = list(Path(args.output_dir).glob("checkpoint-*"))
        assert all(checkpoint_defect(folder) is None for folder in folders)
        self.seen[state.global_step] = sorted(int(folder.name.split("-")[1]) for folder in folders)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Never interrupted: (folder, trainer and callback, the checkpoints after each save)."""
    folder, saves = tmp_path_factory.mktemp("whole") / "run", Saves()
    return folder, run(folder, saves), saves.seen


def test_the_newest_and_the_best_are_kept(whole):
    folder, (trainer, _), seen = whole
    best = trainer.state.best_global_step
    assert best in (6, 12, 14)
    # Every four steps, except where an epoch or the training ends, where the evaluation comes first.
    assert list(seen) == [4, 6, 8, 12, 14]
    for step, kept in seen.items():
        assert kept[-1] == step
        assert len(kept) <= 2
    assert seen[14] == sorted({14, best})
    assert trainer.state.best_model_checkpoint == str(folder / f"checkpoint-{best}")
    assert {path.name for path in folder.iterdir()} <= {"checkpoint-14", f"checkpoint-{best}", ".unfinished"}


class Dies(TrainerCallback):
    """Raises in place of a SIGKILL."""

    def __init__(self, step: int, event: str) -> None:
        def die(args, state, control, **kwargs):
            if state.global_step == step:
                raise KeyboardInterrupt

        setattr(self, event, die)


@pytest.mark.parametrize(
    ("step", "event", "last"),
    [
        (3, "on_step_end", None),
        (10, "on_step_end", 8),
        (12, "on_evaluate", 8),
        (12, "on_save", 12),
        (14, "on_save", 14),  # the last step, in the middle of an epoch
    ],
)
def test_an_interrupted_run_ends_as_the_uninterrupted_one(whole, tmp_path, step, event, last):
    _, (trainer, callback), _ = whole
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", Dies(step, event))
    (tmp_path / "run").rename(tmp_path / "moved")
    found = last_checkpoint(tmp_path / "moved")
    assert found == (None if last is None else str(tmp_path / "moved" / f"checkpoint-{last}"))
    resumed, again = run(tmp_path / "moved", resume=found)
    assert_same_end((trainer, callback), (resumed, again))
    assert history(resumed) == history(trainer)


def test_a_save_that_dies_leaves_the_checkpoints_as_they_were(tmp_path, monkeypatch):
    from layerselect.tasks.run import checkpoints

    def die(*args):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", Dies(5, "on_step_end"))
    before = {path.name for path in (tmp_path / "run").iterdir()}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints, "move_into_place", die)
        run(tmp_path / "run", resume=last_checkpoint(tmp_path / "run"))
    left = tmp_path / "run" / ".unfinished" / "checkpoint-6"
    assert checkpoint_defect(left) is None  # all but its name
    assert {path.name for path in (tmp_path / "run").iterdir()} == before | {".unfinished"}
    assert last_checkpoint(tmp_path / "run").endswith("checkpoint-4")


def test_a_run_that_early_stopping_ended_has_ended(tmp_path):
    """The loss that counts sinks all the time, so patience ends after the second evaluation; its memory of the first
    one comes from the checkpoint.
    """
    settings = {"max_steps": 30, "learning_rate": 1e-3, "dropout": 0.0}
    trainer, callback = run(tmp_path / "whole", EarlyStoppingCallback(1), **settings)
    assert trainer.state.global_step == 12
    for step, event in ((9, "on_step_end"), (12, "on_save")):
        place = tmp_path / f"{step}"
        with pytest.raises(KeyboardInterrupt):
            run(place, EarlyStoppingCallback(1), Dies(step, event), **settings)
        resumed, again = run(place, EarlyStoppingCallback(1), resume=last_checkpoint(place), **settings)
        assert_same_end((trainer, callback), (resumed, again))
        shutil.rmtree(place)


def test_training_twice_in_one_process_trains_twice(tmp_path):
    callback = SelectorCallback(mode="gate")
    trainer = train(tmp_path, callback, kind=WholeCheckpoints, max_steps=2, save_strategy="no")
    assert trainer.train().global_step == 2
    assert callback.selector.steps == 2


def test_evaluations_by_steps(tmp_path):
    """Where an evaluation and a planned save fall on one step, the evaluation comes first and there is one save."""
    settings = {"eval_strategy": "steps", "eval_steps": 5, "save_strategy": "steps", "save_steps": 5, "dropout": 0.0}
    saves = Saves()
    trainer, callback = run(tmp_path / "whole", saves, **settings)
    assert list(saves.seen) == [4, 5, 8, 10, 12, 14]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", Dies(13, "on_step_end"), **settings)
    found = last_checkpoint(tmp_path / "run")
    assert found.endswith("checkpoint-12")  # the end of an epoch, without an evaluation
    resumed, again = run(tmp_path / "run", resume=found, **settings)
    assert_same_end((trainer, callback), (resumed, again))
    assert history(resumed) == history(trainer)
