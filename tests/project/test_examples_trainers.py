"""The examples for other people's loops and trainers run on the demo's small models and do what they say."""

from __future__ import annotations

import pytest
from layerselect.integrations.transformers import last_checkpoint

from tests.project.test_examples import load_example


def test_transformers_trainer_goes_on_where_it_was(tmp_path):
    main = load_example("transformers_trainer").main
    main(tmp_path, steps=2, save_steps=2)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    trainer = main(tmp_path, steps=5, save_steps=2)
    assert trainer.state.global_step == 5
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-5"}
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < 7.0  # less than a guess among the words


def test_accelerate_loop_accumulates_and_goes_on(tmp_path):
    train = load_example("accelerate_loop").train
    losses, selector = train(tmp_path, steps=10, accumulate=2)
    assert len(losses) == 2 * selector.steps == 20
    assert 10 <= int(selector.frequency.sum()) < 6 * 10
    before = selector.frequency.clone()
    losses, selector = train(tmp_path, steps=12, accumulate=2)
    assert len(losses) == 4
    assert selector.steps == 12
    assert (selector.frequency >= before).all()
    assert int((selector.frequency - before).sum()) >= 2


@pytest.mark.parametrize("lora", [False, True], ids=["weights", "lora"])
def test_sft_trainer_selects_three_layers_a_step(capsys, lora):
    pytest.importorskip("trl", reason="trl is not installed")
    losses, selector = load_example("sft_trainer").main(steps=10, lora=lora, rows=40)
    assert selector.num_layers == 8
    assert selector.steps == 10
    assert int(selector.frequency.sum()) == 3 * 10
    assert losses[-1] < losses[0]
    assert capsys.readouterr().out.count("of 10 steps") == 8


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_lightning_module_goes_on_where_it_was(tmp_path, capsys):
    pytest.importorskip("lightning", reason="lightning is not installed")
    main = load_example("lightning_module").main
    losses, selector = main(tmp_path, steps=4)
    before = selector.frequency.clone()
    assert len(losses) == 2 * selector.steps == 8
    losses, selector = main(tmp_path, steps=6)
    assert len(losses) == 4 and selector.steps == 6
    assert (selector.frequency >= before).all() and 6 <= int(selector.frequency.sum()) < 6 * 6
    assert capsys.readouterr().out.count("of 6 steps") == 6


def test_sentence_encoder_learns_and_selects(capsys):
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    losses, selector = load_example("sentence_encoder").main(steps=10)
    assert losses[-1] < losses[0] and selector.steps == 10
    assert 10 <= int(selector.frequency.sum()) < 6 * 10
    assert capsys.readouterr().out.count("of 10 steps") == 6


def test_setfit_classifier_selects_in_the_body(capsys):
    pytest.importorskip("setfit", reason="setfit is not installed")
    right, selector = load_example("setfit_classifier").main(steps=10, of_each=4)
    assert right > 0.5 and selector.steps == 10
    assert 10 <= int(selector.frequency.sum()) < 6 * 10
    assert capsys.readouterr().out.count("of 10 steps") == 6
