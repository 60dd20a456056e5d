"""Checkpoints of a Trainer with the callback: resuming bit for bit, what an interrupted save leaves, what is
refused.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from layerselect import LayerSelectError
from layerselect.checkpoint import TENSORS_FILE, VALUES_FILE
from layerselect.integrations import trainer_internals
from layerselect.integrations.transformers import SelectorCallback, checkpoint_defect, last_checkpoint
from transformers import Trainer, TrainerState

from tests.integrations.trainers import StopAfter, assert_same_end, build, train

OPTIONS = {"rule": "variance", "probe_every": 3}


def selecting(mode: str = "freeze", **changes) -> SelectorCallback:
    return SelectorCallback(**{**OPTIONS, "mode": mode, **changes})


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "freeze"},
        {"mode": "gate", "dropout": 0.1},
        {"mode": "freeze", "bf16": True, "gradient_accumulation_steps": 2, "gradient_checkpointing": True},
        {"mode": "gate", "rule": "random:k=2", "save_total_limit": 1},
    ],
    ids=["freeze", "dropout", "bf16-accumulation-checkpointing", "drawn"],
)
def test_a_resumed_run_ends_as_the_uninterrupted_one(tmp_path, settings):
    selector = {name: settings.pop(name) for name in ("mode", "rule") if name in settings}
    callbacks = [selecting(**selector) for _ in range(3)]
    whole = train(tmp_path / "whole", callbacks[0], **settings)
    train(tmp_path / "part", callbacks[1], StopAfter(5), **settings)
    resumed = train(tmp_path / "part", callbacks[2], resume=True, **settings)
    assert_same_end((whole, callbacks[0]), (resumed, callbacks[2]))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with checkpoints after 4 and 8 steps: (folder, trainer, callback)."""
    folder = tmp_path_factory.mktemp("trainer") / "run"
    callback = selecting("gate")
    return folder, train(folder, callback), callback


@pytest.fixture
def copy(run, tmp_path) -> Path:
    return Path(shutil.copytree(run[0], tmp_path / "run"))


def test_the_checkpoint_is_found_where_the_trainer_found_it(run, tmp_path):
    """Given as a path, moved, and with another run's checkpoint of the same step in the output folder."""
    _, whole, callback = run
    moved = shutil.copytree(run[0] / "checkpoint-4", tmp_path / "elsewhere" / "checkpoint-4")
    train(tmp_path / "out", selecting("gate"), seed=9, max_steps=4)
    resumed = selecting("gate")
    assert_same_end((whole, callback), (train(tmp_path / "out", resumed, resume=str(moved)), resumed))


def test_a_guess_at_the_checkpoint_is_checked(copy, tmp_path, monkeypatch):
    """A Trainer that is not to be seen resumes from a copy, and another checkpoint of that step lies where it would
    be.
    """
    train(tmp_path / "out", selecting("gate"), seed=9, max_steps=4)
    monkeypatch.setattr(trainer_internals, "currentframe", lambda: None)
    with pytest.raises(LayerSelectError, match="resumes at step 4 from another checkpoint than .*out/checkpoint-4"):
        train(tmp_path / "out", selecting("gate"), resume=str(copy / "checkpoint-4"))
    resumed = selecting("gate")
    place = str(copy / "checkpoint-4")
    train(tmp_path / "out", resumed, resume=place, resume_from_checkpoint=place, save_strategy="no")
    assert resumed.selector.steps == 8


def test_last_checkpoint(copy):
    assert last_checkpoint(copy) == str(copy / "checkpoint-8")
    (copy / "checkpoint-10").mkdir()
    (copy / "checkpoint-old").mkdir()
    (copy / "checkpoint-12").write_text("a file")
    assert last_checkpoint(copy) == str(copy / "checkpoint-8")
    assert last_checkpoint(copy / "nowhere") is None
    assert last_checkpoint(copy / "checkpoint-10") is None


def test_steps_are_compared_as_numbers(copy):
    (copy / "checkpoint-8").rename(copy / "checkpoint-10")
    assert last_checkpoint(copy) == str(copy / "checkpoint-10")


FILES = [
    "adapter_model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    TENSORS_FILE,
    VALUES_FILE,
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0.0, 0.5, None], ids=["empty", "half", "gone"])
def test_a_truncated_file_makes_the_older_checkpoint_the_last(copy, name, kept, caplog):
    path = copy / "checkpoint-8" / name
    content = path.read_bytes()
    path.unlink() if kept is None else path.write_bytes(content[: int(len(content) * kept)])
    assert name in checkpoint_defect(copy / "checkpoint-8")
    assert last_checkpoint(copy) == str(copy / "checkpoint-4")
    assert "checkpoint-8 is left out: it" in caplog.text
    caplog.clear()
    build(copy, selecting("gate"))
    assert "checkpoint-8 is not a complete checkpoint" in caplog.text
    assert caplog.messages[-1].endswith("to resume, resume from " + str(copy / "checkpoint-4"))


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", VALUES_FILE, TENSORS_FILE])
def test_what_the_trainer_would_silently_do_without_is_refused(copy, name):
    (copy / "checkpoint-8" / name).unlink()
    with pytest.raises(LayerSelectError) as error:
        train(copy, selecting("gate"), resume=str(copy / "checkpoint-8"), max_steps=10)
    message = str(error.value)
    assert message.startswith(f"{copy}/checkpoint-8 is not a complete checkpoint: ")
    assert name in message
    assert message.endswith(f"resume from {copy}/checkpoint-4")
    assert "\n" not in message


def test_without_any_complete_checkpoint_there_is_only_a_fresh_start(copy):
    shutil.rmtree(copy / "checkpoint-4")
    (copy / "checkpoint-8" / VALUES_FILE).unlink()
    with pytest.raises(LayerSelectError, match="no checkpoint in .* is complete, so begin afresh"):
        train(copy, selecting("gate"), resume=True, max_steps=10)


def test_a_checkpoint_of_another_rule_is_refused_with_its_place(copy):
    with pytest.raises(LayerSelectError, match="checkpoint-8: the selector state was saved with rule 'variance'"):
        train(copy, selecting("gate", rule="topk:k=1"), resume=True, max_steps=10)


def test_a_sigterm_checkpoint_in_the_making_is_left_out(copy):
    (copy / "checkpoint-8" / "checkpoint-is-incomplete.txt").touch()
    assert last_checkpoint(copy) == str(copy / "checkpoint-4")


class Killed(BaseException):
    pass


def kill(*args, **kwargs):
    raise Killed


def kill_in_the_middle(self, path):
    """Half of ``trainer_state.json`` has reached the disk."""
    Path(path).write_text('{"epoch": 1, "global_st')
    raise Killed


#: Where the second save dies, and the checkpoint that is the last good one then.
DEATHS = {
    "before the optimizer": (Trainer, "_save_optimizer_and_scheduler", kill, 4),
    "before the random states": (Trainer, "_save_rng_state", kill, 4),
    "before the selector": ("layerselect.integrations.transformers.save_selector", None, kill, 4),
    "before the seal": ("layerselect.checkpoint._fingerprint", None, kill, 4),
    "in the Trainer's state": (TrainerState, "save_to_json", kill_in_the_middle, 4),
    "before the old one goes": ("transformers.trainer.rotate_checkpoints", None, kill, 8),
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_save_that_dies_never_costs_the_last_good_checkpoint(run, copy, monkeypatch, death):
    owner, name, replacement, good = DEATHS[death]
    shutil.rmtree(copy / "checkpoint-8")
    trainer = build(copy, selecting("gate"), save_total_limit=1)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(*([owner, name] if name else [owner]), replacement)
        trainer.train(resume_from_checkpoint=str(copy / "checkpoint-4"))
    last = last_checkpoint(copy)
    assert last == str(copy / f"checkpoint-{good}")
    if death == "in the Trainer's state":
        resumed = selecting("gate")
        trainer = train(copy, resumed, resume=last, save_total_limit=1)
        assert_same_end((run[1], run[2]), (trainer, resumed))
        assert [path.name for path in copy.glob("checkpoint-*")] == ["checkpoint-8"]
        assert last_checkpoint(copy)


@pytest.mark.parametrize("death", [death for death, (*_, good) in DEATHS.items() if good == 4])
def test_a_checkpoint_partly_written_over_is_no_checkpoint(copy, monkeypatch, death):
    """Another run in the same folder dies while it saves over the first run's checkpoint: a mixture of both is left."""
    owner, name, replacement, _ = DEATHS[death]
    trainer = build(copy, selecting("gate"), seed=9)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(*([owner, name] if name else [owner]), replacement)
        trainer.train()
    assert checkpoint_defect(copy / "checkpoint-4") is not None
    assert checkpoint_defect(copy / "checkpoint-8") is None


def test_a_trainer_that_does_not_ask_for_states_gets_the_selector_all_the_same(tmp_path):
    class Own(Trainer):
        def _save_checkpoint(self, model, trial):
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            self.save_model(str(folder), _internal_call=True)
            self._save_optimizer_and_scheduler(str(folder))
            self.state.save_to_json(str(folder / "trainer_state.json"))

    callback = selecting("gate")
    model = build(tmp_path, callback)
    trainer = Own(model.model, model.args, train_dataset=model.train_dataset, callbacks=[callback])
    trainer.train()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-8")
    state = tmp_path / "checkpoint-8" / "trainer_state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "global_step": 7}))
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")


def test_a_selector_between_two_steps_is_not_saved(tmp_path):
    """A checkpoint on SIGTERM may be written between the selector's step and the optimizer's."""
    callback = selecting("gate")
    trainer = build(tmp_path, callback, max_steps=1, save_strategy="no")

    def step(optimizer, *args, **kwargs):
        trainer._save_checkpoint(trainer.model, trial=None)

    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(step)
    trainer.train()
    assert "holds no selector.json" in checkpoint_defect(tmp_path / "checkpoint-0")
