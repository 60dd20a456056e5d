"""Messages of the library in the words of who typed a command, and values that nobody should have typed."""

import argparse

import layerselect.tasks.intent as task
import pytest
from layerselect import LayerSelectError
from layerselect.cli import main
from layerselect.cli.options import number, positive, up_to, whole
from layerselect.cli.wording import in_options, one_line

OPTIONS = {"mode": "--mode", "max_memory": "--max-memory", "predictor": "--from", "sample": "--sample", "k": "--k"}


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("mode='freeze' needs more", "--mode freeze needs more"),
        ("max_memory='lots' is no size", "--max-memory lots is no size"),
        ("use mode='gate', or max_memory=3", "use --mode gate, or --max-memory 3"),
        ("change nothing without sample=True", "change nothing without --sample"),
        ("predictor='' is empty", "--from '' is empty"),
        ("give another max_memory=", "give another --max-memory"),
        ("lr=3 stays", "lr=3 stays"),
        ("topk:k=4 stays, and 'topk:k=4'", "topk:k=4 stays, and 'topk:k=4'"),
        ("rule 'topk': k=0 must be positive", "rule 'topk': k=0 must be positive"),
        ("the folder a/mode=x/b", "the folder a/mode=x/b"),
    ],
)
def test_options_are_named_as_they_were_typed(message, wanted):
    assert in_options(message, OPTIONS) == wanted


@pytest.mark.parametrize(
    "message", ["a\nb", "a\r\n\tb", "a\x1b[31mb", "a\0b", "\ud800", "\u2028", "x" * 99_999, "x " * 9_999]
)
def test_a_message_is_one_line_that_a_terminal_can_show(message):
    line = one_line(message)
    assert line.isprintable() and len(line) <= 1501
    line.encode("utf-8")


@pytest.mark.parametrize("text", ["²", "٣", "1.5", "", " ", "9" * 5000, "1e3", "0x10", "nan", "-", "１", str(2**63)])
@pytest.mark.parametrize("kind", [whole, positive, up_to(9)])
def test_what_is_no_whole_number(kind, text):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        kind(text)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("text", ["nan", "inf", "-Infinity", "1e999", "٣", "", "1,5", "one", "１", "9" * 5000])
def test_what_is_no_number(text):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        number(text)
    assert len(str(caught.value)) < 150


def test_numbers():
    assert (whole("-3"), positive("7"), up_to(9)("9"), number("1e-3"), number("-.5")) == (-3, 7, 9, 1e-3, -0.5)


@pytest.fixture
def refused(capsys, monkeypatch, tmp_path):
    """What a command says of arguments, before anything is trained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(task, "run_intent", lambda *args, **kwargs: pytest.fail("it was let through"))

    def run(*arguments):
        try:
            status = main([*map(str, arguments)])
        except SystemExit as error:
            status = error.code
        message = capsys.readouterr().err
        assert status == 2 and message.count("\n") == 1 and len(message) < 900
        assert message[:-1].isprintable()
        return message

    return run


INTENT = ("intent", "--data", "demo", "--model", "demo", "--out", "x")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seed", "-1"], "--seed -1 must not be negative"),
        (["--seed", 2**40], "--seed"),
        (["--epochs", "1e300"], "--epochs"),
        (["--lr", "nan"], "'nan' is not a finite number"),
        (["--lora-rank", "0"], "--lora-rank 0 must be at least 1"),
        (["--lora-dropout", "1"], "--lora-dropout"),
        (["--batch-size", "٣"], "is not a whole number"),
        (["--rule", "topk:k=4;k=5"], "given twice"),
        (["--rule", "topk:" + "x" * 5000 + "=1"], "has no option"),
        (["--rule", "y" * 5000], "there is no rule"),
        (["--rule", "a\nb\x1b[31m"], "there is no rule"),
        (["--rule", "topk:k=" + "[" * 5000], "is not JSON"),
        (["--state-cache", "cached", "--cut", "²"], "--cut"),
        (["--state-cache", "cached", "--state-cache-memory", "9" * 400 + "GB"], "is no size"),
        (["--state-cache", "cached", "--state-cache-store", "~nobody-of-this-name"], "--state-cache-store"),
        (["--epoch", "3"], "did you mean --epochs?"),
        (["--ep=3"], "did you mean --epochs?"),
        (["--lrr", "3"], "did you mean --lr"),
        (["--threads", "9999999"], "too large"),
        (["--format", "z" * 5000], "no input format"),
        (["--adapter", "\n\n"], "no adapter"),
        (["--score", "x" * 4000], "invalid choice"),
        (["--model=--"], "argument --model: -- is no value"),
    ],
)
def test_values_are_refused_in_one_line(refused, arguments, words):
    assert words in refused(*INTENT, *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--beams", "2", "--sample"], "--beams 2 and --sample exclude each other"),
        (["--top-p", "0.5"], "--temperature 1.0 and --top-p 0.5 change nothing without --sample"),
        (["--predictor-rule", "nothing"], "--predictor-rule: there is no rule 'nothing'"),
        (["--predictor-epochs", "0"], "--predictor-epochs 0.0 must be above 0"),
        (["--max-new-tokens", "0"], "--max-new-tokens 0 must be at least 1"),
    ],
)
def test_values_of_revise_are_named_as_they_were_typed(refused, arguments, words):
    assert words in refused("revise", *INTENT[1:], *arguments)


def test_the_library_names_its_arguments_as_callers_write_them():
    from layerselect.tasks.revise import GenerationConfig

    with pytest.raises(LayerSelectError, match="beams=2 and sample=True"):
        GenerationConfig(beams=2, sample=True)
