"""``layerselect run``: a program that knows nothing of us, with layers selected in its Trainers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from layerselect import LayerSelectError
from layerselect.cli.main import main
from layerselect.integrations.outcome import Selected
from layerselect.integrations.program import in_every_trainer
from layerselect.integrations.transformers import SelectorCallback

PROGRAM = '''
"""Fine-tunes a tiny model; its options are its own, and one is called as one of ours."""

import argparse
import json
import os
import sys

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import beside  # stands in the folder of the program


class Own(Trainer):
    """As trl and sentence-transformers have theirs."""


parser = argparse.ArgumentParser()
parser.add_argument("--rule", default="theirs")
parser.add_argument("--out", required=True)
parser.add_argument("--fail", default="")
options = parser.parse_args()
torch.manual_seed(0)
model = BertForSequenceClassification(BertConfig(
    vocab_size=50, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, num_labels=2
))
rows = [{"input_ids": torch.randint(0, 50, (6,)), "labels": torch.tensor(i % 2)} for i in range(8)]
arguments = TrainingArguments(
    output_dir=options.out, max_steps=3, per_device_train_batch_size=4, use_cpu=True, report_to="none",
    disable_tqdm=True, save_strategy="no", logging_strategy="no",
)
trainer = Own(model=model, args=arguments, train_dataset=rows)
before = {name: value.clone() for name, value in model.state_dict().items()}
trainer.train()
moved = sorted({name.split(".")[3] for name, value in model.state_dict().items()
                if ".layer." in name and not torch.equal(value, before[name])})
print(json.dumps({"moved": moved, "rule": options.rule, "name": __name__, "argv": sys.argv, "beside": beside.VALUE}))
if options.fail == "raise":
    raise ValueError("of the program itself")
if options.fail:
    sys.exit(int(options.fail))
'''


@pytest.fixture
def program(tmp_path) -> Path:
    (tmp_path / "beside.py").write_text("VALUE = 7\n")
    (tmp_path / "finetune.py").write_text(PROGRAM)
    return tmp_path / "finetune.py"


def _said(capsys) -> tuple[dict, str]:
    captured = capsys.readouterr()
    return json.loads(captured.out.strip().splitlines()[-1]), captured.err


def test_only_selected_layers_move_and_the_program_knows_nothing(program, tmp_path, capsys):
    typed = ["run", "--rule", "upper:p=0.5", "--mode", "freeze", "--selector-option", "log_scores=false"]
    assert main([*typed, "--", str(program), "--rule", "theirs", "--out", str(tmp_path / "out")]) == 0
    found, err = _said(capsys)
    assert found["moved"] == ["2", "3"]
    assert (found["rule"], found["name"], found["beside"]) == ("theirs", "__main__", 7)
    assert found["argv"] == [str(program), "--rule", "theirs", "--out", str(tmp_path / "out")]
    assert "Own, 3 steps in mode freeze: 2.0 of 4 layers selected" in err
    assert "of a step's arithmetic (counted)" in err


def test_what_was_only_observed_is_not_said_to_have_been_selected():
    def said(mode: str, frequency: list[int]) -> str:
        return Selected("Trainer", ["a", "b"], frequency, {"steps": 4, "mode": mode}).lines()[0]

    assert said("gate", [1, 3]).endswith("1.0 of 2 layers selected on average, most often b (75%), a (25%)")
    assert said("observe", [0, 4]).endswith("1.0 of 2 layers would have been selected on average, most often b (100%)")
    assert said("gate", [0, 0]).endswith("0.0 of 2 layers selected on average, most often none")


def test_afterwards_trainers_are_as_before(program, tmp_path, capsys):
    from transformers import Trainer

    original = Trainer.__init__
    argv, first = list(sys.argv), sys.path[0]
    assert main(["run", "--", str(program), "--out", str(tmp_path), "--fail", "3"]) == 3
    assert Trainer.__init__ is original
    assert (sys.argv, sys.path[0]) == (argv, first)


def test_what_the_program_raises_keeps_its_traceback(program, tmp_path, capsys):
    assert main(["run", "--rule", "all", "--", str(program), "--out", str(tmp_path), "--fail", "raise"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err and "ValueError: of the program itself" in err
    assert "4.0 of 4 layers" in err


def test_a_trainer_that_brings_its_own_callback_keeps_it(tmp_path):
    from transformers import Trainer

    with in_every_trainer(rule="all"):
        from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

        sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
        model = BertForSequenceClassification(BertConfig(vocab_size=10, **sizes))
        arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
        own = SelectorCallback(rule="upper")
        trainer = Trainer(model=model, args=arguments, callbacks=[own])
        ours = [each for each in trainer.callback_handler.callbacks if isinstance(each, SelectorCallback)]
        assert ours == [own]


@pytest.mark.parametrize("layers", ['["bert.encoder.layer.2","bert.encoder.layer.3"]', "bert.encoder.layer"])
def test_costs_are_of_the_layers_that_the_selector_is_given(program, tmp_path, capsys, layers):
    typed = ["run", "--rule", "all", "--selector-option", f"layers={layers}", "--", str(program)]
    assert main([*typed, "--out", str(tmp_path)]) == 0
    _, err = _said(capsys)
    count = layers.count("layer.") or 4
    assert f"of {count} layers selected" in err and "100% of a step's arithmetic" in err


def test_costs_that_cannot_be_counted_stop_no_training(program, tmp_path, capsys, monkeypatch):
    """As those of a model whose weights are elsewhere: what is wrong with it is the selector's to say."""

    def refuse(model, layers):
        raise LayerSelectError("costs: forward and rest are 0")

    monkeypatch.setattr("layerselect.integrations.outcome.counted_costs", refuse)
    assert main(["run", "--rule", "all", "--", str(program), "--out", str(tmp_path)]) == 0
    _, err = _said(capsys)
    assert "3 steps in mode freeze: 4.0 of 4 layers selected" in err and "arithmetic" not in err


def test_a_program_without_a_trainer_is_told_so(tmp_path, capsys):
    script = tmp_path / "plain.py"
    script.write_text("print('done')")
    assert main(["run", "--", str(script)]) == 0
    captured = capsys.readouterr()
    assert captured.out == "done\n" and "nothing was selected" in captured.err


def test_a_program_that_fails_before_it_trains_has_the_last_word(tmp_path, capsys):
    script = tmp_path / "plain.py"
    script.write_text("import sys; sys.exit('no data')")
    assert main(["run", "--", str(script)]) == 1
    assert capsys.readouterr().err == "no data\n"


def test_what_a_selector_refuses_while_the_program_runs_is_a_line_of_its_own(program, tmp_path, capsys):
    """A progress bar that the program has begun does not stand in front of it."""
    text = program.read_text().replace("trainer.train()", "sys.stderr.write('0%|'); trainer.train()")
    program.write_text(text)
    assert main(["run", "--selector-option", "layers=nowhere", "--", str(program), "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("layerselect: ") and "nowhere" in said[-1] and "0%|" in said[-2]


def test_a_module_runs_as_python_runs_it(tmp_path, capsys, monkeypatch):
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool" / "__init__.py").write_text("")
    (tmp_path / "tool" / "work.py").write_text("import sys\nprint(__name__, sys.argv[1:], __package__)")
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--", "-m", "tool.work", "-x", "--config", "c.yaml"]) == 0
    assert capsys.readouterr().out == "__main__ ['-x', '--config', 'c.yaml'] tool\n"


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--"], "no program is named"),
        ([], "no program is named"),
        (["--", "nowhere.py"], "there is no script 'nowhere.py'"),
        (["--", "-m"], "there is no module ''"),
        (["--", "-m", "no.such"], "there is no module 'no.such'"),
        (["--", "/usr/bin/torchrun", "x.py"], "torchrun starts the training in processes of its own"),
        (["--", "trl", "sft"], "accelerate launch -m layerselect run -- -m trl.scripts.sft"),
        (["--", "-m", "torch.distributed.run", "x.py"], "'torchrun -m layerselect run"),
        (["--", "axolotl", "train", "x.yml"], "LayerSelectPlugin in the plugins"),
        (["--rule", "best", "--", "x.py"], "no rule 'best'"),
        (["--selector-option", "probe", "--", "x.py"], "is no NAME=VALUE"),
        (["--selector-option", "prob_every=3", "--", "x.py"], "probe_every"),
        (["--selector-option", "rule=all", "--", "x.py"], "an option of its own"),
    ],
)
def test_what_cannot_run_is_one_line(typed, words, capsys):
    assert main(["run", *typed]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert words in said[-1] and said[-1].startswith("layerselect: ")


def test_a_command_that_starts_others_on_several_gpus_is_refused_there(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert main(["run", "--", "llamafactory-cli", "train", "config.yaml"]) == 2
    assert "torchrun -m layerselect run -- -m llamafactory.launcher" in capsys.readouterr().err
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert main(["run", "--", "no/such/llamafactory-cli", "train", "config.yaml"]) == 2
    assert "there is no script" in capsys.readouterr().err


def test_a_binary_file_is_no_program(tmp_path, capsys):
    (tmp_path / "data.bin").write_bytes(b"\x00\x01")
    assert main(["run", "--", str(tmp_path / "data.bin")]) == 2
    assert "is no Python program" in capsys.readouterr().err
