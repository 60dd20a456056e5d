"""Memory that runs out, injected: one sentence with smaller options, no result that is half there, and what was
finished is kept.
"""

from __future__ import annotations

import io
import json
import sys

import pytest
import torch
from layerselect.cli import main
from layerselect.models import traits
from layerselect.report import card as report_card
from layerselect.tasks.compare import worker
from layerselect.tasks.compare.runs import _REASON
from layerselect.tasks.intent import IntentConfig, run_intent
from layerselect.tasks.intent import model as intent_model
from layerselect.tasks.intent.training import ClassificationTrainer
from layerselect.tasks.revise import ReviseConfig
from layerselect.tasks.revise import task as revise_task
from layerselect.tasks.revise.training import RevisionTrainer
from layerselect.tasks.run import memory, trial
from layerselect.tasks.run.memory import MEASURING, OutOfMemory, smaller
from layerselect.tasks.run.stages import BASELINES, EVALUATION, LOADING, REVISING, TRAINING, WRITING
from layerselect.utils.memory_errors import GPU, HOST
from layerselect.utils.options import flag_of, options_of

ON_GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB.")
ON_CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried to")


def runs_out(monkeypatch, owner, name, error, *, after=0):
    """Lets a function fail in a call."""
    ours, calls = getattr(owner, name), []

    def fails(*args, **kwargs):
        calls.append(None)
        if len(calls) > after:
            raise error
        return ours(*args, **kwargs)

    monkeypatch.setattr(owner, name, fails)


def asked(command, corpus, model, out, *more):
    small = ["--max-steps", "2", "--batch-size", "4", "--device", "cpu", "--rule", "topk:k=1", "--eval-limit", "4"]
    return [command, "--data", str(corpus), "--model", str(model), "--out", str(out), *small, *more]


def said(capsys, arguments):
    assert main([str(each) for each in arguments]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("layerselect: memory ran out on ")
    return message


LOADED = (intent_model, "load_classifier", "while the model was loaded: try --dtype bfloat16 or", "--quantize 4bit")
TRIED = (trial, "_training", "when training was tried, at a batch of 2, the longest of ", "--max-length 32")
TRAINED = (
    ClassificationTrainer,
    "compute_loss",
    "in training, at --batch-size 4 and --max-length 64: ",
    "--batch-size 2 --accumulate 2",
)
EVALUATED = (
    ClassificationTrainer,
    "prediction_step",
    "in the evaluation, at 8 examples at a time",
    "try --eval-batch-size 4",
)


@pytest.mark.parametrize(
    ("owner", "name", "where", "tries", "error"),
    [
        (*LOADED, MemoryError()),
        (*LOADED, ON_GPU),
        (*TRIED, ON_CPU),
        (*TRAINED, ON_GPU),
        (*TRAINED, ON_CPU),
        (*EVALUATED, MemoryError()),
    ],
)
def test_intent_says_what_to_try(monkeypatch, capsys, few, folders, tmp_path, owner, name, where, tries, error):
    if name == "_training":
        ours = trial._training

        def training(model, train):
            def fails(numbers):
                raise error

            return ours(model, fails)

        monkeypatch.setattr(trial, "_training", training)
    else:
        runs_out(monkeypatch, owner, name, error)
    message = said(capsys, asked("intent", few, folders["bert"], tmp_path / "run"))
    assert where in message and tries in message
    assert ("on the GPU" if error is ON_GPU else "on this machine") in message
    assert not (tmp_path / "run").exists()
    assert (tmp_path / "run.partial").exists() == (owner is ClassificationTrainer)


@pytest.mark.parametrize("tried", ["_said", "_last"])
def test_memory_that_runs_out_is_no_trait_of_a_model(monkeypatch, capsys, few, folders, tmp_path, tried):
    """What is found out by trying is not found out by a trial that had no memory."""
    runs_out(monkeypatch, traits, tried, ON_CPU)
    assert "while the model was loaded" in said(capsys, asked("intent", few, folders["bert"], tmp_path / "run"))


def test_what_is_finished_goes_on_with_another_size_of_evaluations(monkeypatch, capsys, few, folders, tmp_path):
    """What ran out in the last evaluation costs no step of the training."""
    arguments = asked("intent", few, folders["bert"], tmp_path / "run", "--keep", "last")
    with monkeypatch.context() as patch:
        runs_out(patch, ClassificationTrainer, "predict", ON_GPU)
        assert "--eval-batch-size may change when the run goes on" in said(capsys, arguments)
    with monkeypatch.context() as patch:
        runs_out(patch, ClassificationTrainer, "training_step", AssertionError("it trains again"))
        assert main([*arguments, "--resume", "--eval-batch-size", "1"]) == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["training"]["steps"] == 2


def test_a_checkpoint_is_kept_where_a_later_step_runs_out(monkeypatch, capsys, few, folders, tmp_path):
    arguments = asked("intent", few, folders["bert"], tmp_path / "run", "--save-steps", "1", "--lora-dropout", "0.1")
    assert main([*asked("intent", few, folders["bert"], tmp_path / "whole"), *arguments[-4:]]) == 0
    with monkeypatch.context() as patch:
        runs_out(patch, ClassificationTrainer, "compute_loss", ON_CPU, after=1)
        said(capsys, arguments)
    assert (tmp_path / "run.partial" / "checkpoints" / "checkpoint-1").is_dir()
    assert main([*arguments, "--resume"]) == 0
    one, other = (tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("run", "whole"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("owner", "name", "where", "tries"),
    [
        (revise_task, "generate", "while texts were written, at 8 examples", "--eval-batch-size 4"),
        (RevisionTrainer, "compute_loss", "in training, at --batch-size 4 and", "--gradient-checkpointing nonr"),
        (ClassificationTrainer, "compute_loss", "at --predictor-batch-size 16 and --predictor-max-length 64", "--pred"),
    ],
    ids=["generation", "training", "predictor"],
)
def test_revise_says_what_to_try(monkeypatch, capsys, few, folders, tmp_path, owner, name, where, tries):
    runs_out(monkeypatch, owner, name, ON_CPU)
    transfer = [] if owner is ClassificationTrainer else ["--transfer", "none"]
    message = said(capsys, asked("revise", few, folders["llama"], tmp_path / "run", *transfer))
    assert where in message and tries in message
    assert " --batch-size" not in message or owner is not ClassificationTrainer
    assert not (tmp_path / "run").exists()


def test_a_card_says_what_to_try(monkeypatch, capsys, few, folders, tmp_path):
    from layerselect.tasks.card import run

    runs_out(monkeypatch, run, "measure", ON_GPU)
    named = ["--data", few, "--model", folders["bert"], "--out", tmp_path / "card", "--device", "cpu"]
    message = said(capsys, ["card", *named, "--head-steps", "0"])
    assert "while the card was measured, at --batch-size 16 and --max-length 64: try --batch-size 8, " in message
    assert message.endswith("--max-memory 1GB") and "--accumulate" not in message and "checkpointing" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_card_that_cannot_be_drawn_leaves_nothing(monkeypatch, capsys, few, folders, tmp_path):
    monkeypatch.setattr("layerselect.report.card.write_card_png", lambda path, card: None)
    runs_out(monkeypatch, report_card, "write_card_report", MemoryError())
    sizes = ["--examples", "4", "--batch-size", "2", "--head-steps", "0", "--no-times", "--device", "cpu"]
    named = ["--data", few, "--model", folders["bert"], "--out", tmp_path / "card"]
    said(capsys, ["card", *named, *sizes])
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_a_comparison_fails_with_the_sentence(monkeypatch, caplog, capsys, few, folders, tmp_path):
    settings = IntentConfig(
        data=str(few), model=str(folders["bert"]), out=str(tmp_path / "run"), max_steps=1, device="cpu"
    )
    runs_out(monkeypatch, ClassificationTrainer, "compute_loss", ON_GPU)
    monkeypatch.setattr(sys, "argv", ["worker"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({"task": "intent", "settings": settings.as_dict()})))
    assert worker.main() == 2
    told = [*capsys.readouterr().out.splitlines(), *(record.getMessage() for record in caplog.records)]
    (sentence,) = [line[line.index("memory ran out") :] for line in told if "memory ran out" in line]
    assert sentence.startswith("memory ran out on the GPU in training") and sentence.endswith("or --quantize 4bit")
    assert len(sentence) <= _REASON  # none of it is cut off in the table


def flags(kind):
    return {field.name: flag_of(kind, field.name) for field, _ in options_of(kind)}


def tried(stage=TRAINING, place=GPU, kind=IntentConfig, **settings):
    given = {"data": "d", "model": "m", "out": "o", "device": "cpu", **settings}
    return smaller(kind(**given), place, stage, flags(kind))


def test_every_option_is_smaller_than_what_is_set():
    assert tried() == [
        "--batch-size 8 --accumulate 2",
        "--gradient-checkpointing nonreentrant",
        "--max-length 32",
        "--dtype bfloat16",
        "--quantize 4bit",
    ]
    assert tried(batch_size=9, accumulate=2)[0] == "--batch-size 3 --accumulate 6"
    assert tried(batch_size=7)[0] == "--batch-size 1 --accumulate 7"
    assert tried(EVALUATION, batch_size=4)[:2] == ["--eval-batch-size 4", "--max-length 32"]
    assert tried(EVALUATION, eval_batch_size=1)[0] == "--max-length 32"
    assert "--gradient-checkpointing nonreentrant" not in tried(EVALUATION)
    assert tried(LOADING, quantize="8bit") == ["--quantize 4bit"]
    assert tried(LOADING, adapter="none", dtype="bfloat16") == ["--adapter lora"]
    assert tried(REVISING, kind=ReviseConfig, beams=4)[:2] == ["--eval-batch-size 8", "--beams 2"]
    assert tried(BASELINES) == ["--train-size 50%"]
    assert tried(WRITING, adapter="none", dtype="bfloat16") == ["--adapter lora"]


def test_what_the_host_holds_can_be_less_only_where_it_is_the_host_that_lacks_it():
    held = {"workers": 3, "state_cache": "cached"}
    assert {"--workers 1", "--state-cache-memory 0"} <= set(tried(place=HOST, **held))
    assert not any("workers" in each or "cache" in each for each in tried(place=GPU, **held))


def test_no_smaller_option_is_left():
    least = {
        "batch_size": 1,
        "gradient_checkpointing": "reentrant",
        "max_length": 8,
        "quantize": "4bit",
    }
    assert tried(**least) == []
    settings = IntentConfig(data="d", model="m", out="o", device="cpu", **least)
    assert str(OutOfMemory(settings, GPU, TRAINING)).endswith("choose a smaller model, or a machine with more memory")


def test_every_option_that_is_tried_is_one_of_the_command():
    """Each can be typed as it stands, and makes a configuration."""
    for kind in (IntentConfig, ReviseConfig):
        known = {flag: name for name, flag in flags(kind).items()}
        for stage in (*memory._WHILE, "unknown"):
            for each in smaller(kind(data="d", model="m", out="o", device="cpu"), HOST, stage, flags(kind)):
                words = each.split()
                values = {known[flag]: value for flag, value in zip(words[::2], words[1::2], strict=True)}
                values = {name: int(value) if value.isdigit() else value for name, value in values.items()}
                kind(data="d", model="m", out="o", device="cpu", **values)
    assert MEASURING in memory._WHILE


def test_other_errors_stay_what_they_are(monkeypatch, few, folders, tmp_path):
    runs_out(monkeypatch, ClassificationTrainer, "compute_loss", RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        run_intent(
            IntentConfig(
                data=str(few), model=str(folders["bert"]), out=str(tmp_path / "run"), max_steps=1, device="cpu"
            )
        )
