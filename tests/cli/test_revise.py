"""``revise`` and ``rewrite`` as a user calls them, with good input and bad."""

import io
import json

import pytest
from layerselect.cli import main

from tests.helpers import tiny_intent


@pytest.fixture(scope="module")
def options(llama_folder, tmp_path_factory):
    corpus = tiny_intent.corpus_file(tmp_path_factory.mktemp("corpus"))
    return [
        "--data",
        str(corpus),
        "--model",
        str(llama_folder),
        "--max-steps",
        "2",
        "--predictor-max-steps",
        "2",
        "--probe-every",
        "1",
        "--max-length",
        "64",
        "--eval-limit",
        "3",
        "--batch-size",
        "4",
        "--threads",
        "1",
        "--lora-rank",
        "2",
        "--rule",
        "topk:k=1",
    ]


@pytest.fixture(scope="module")
def generator(options, tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    assert main(["revise", *options, "--out", str(out), "--max-new-tokens", "6"]) == 0
    return out


def give(monkeypatch, text):
    content = text if isinstance(text, bytes) else text.encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_revise_ends_with_the_scores_and_what_was_transferred(capsys, options, generator, tmp_path):
    out = tmp_path / "run"
    arguments = [
        "--from",
        str(generator / "predictor"),
        "--out",
        str(out),
        "--measure-memory",
        "--untrained",
        "--beams",
        "2",
        "--shots",
        "1",
    ]
    assert main(["revise", *options, *arguments]) == 0
    text = capsys.readouterr().out
    for words in (
        "source copied",
        "untrained model",
        "untrained, 1 shot ",
        "trained model",
        "from the predictor: layers",
        "alignment ratio",
        "MB saved",
        "test: edits ",
        "in the references",
        "test: edits of the trained model",
    ):
        assert words in text
    settings = json.loads((out / "config.json").read_text())["settings"]
    assert settings["predictor"] == str(generator / "predictor")
    assert settings["beams"] == 2 and settings["untrained"] is True
    assert not (out / "predictor").exists()


def test_rewrite_reads_text_and_writes_text(capsys, monkeypatch, generator, tmp_path):
    give(monkeypatch, "The baker really watches the market in the evening .\n")
    assert main(["rewrite", "--adapter", str(generator), "--intent", "clarity"]) == 0
    first = capsys.readouterr().out
    assert first.endswith("\n")
    source, target = tmp_path / "draft.txt", tmp_path / "revised.txt"
    source.write_text("The baker really watches the market in the evening .\n", encoding="utf-8-sig")
    arguments = [
        "rewrite",
        "--adapter",
        str(generator),
        "--intent",
        "clarity",
        "--input",
        str(source),
        "--out",
        str(target),
    ]
    assert main(arguments) == 0
    assert target.read_text() == first
    assert {path.name for path in tmp_path.iterdir()} == {"draft.txt", "revised.txt"}


def test_rewrite_line_by_line_keeps_the_lines(capsys, monkeypatch, generator):
    give(monkeypatch, "The river finds a garden .\n\nA fox follows some letters .\n")
    assert main(["rewrite", "--adapter", str(generator), "--lines", "--max-new-tokens", "3"]) == 0
    written = capsys.readouterr().out
    assert written.count("\n") >= 3 and written.endswith("\n")


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        ("", [], "holds no text"),
        (b"\xff\xfe", [], "not text in UTF-8 (byte 0)"),
        ("x", ["--intent", "speed"], "'speed' is none that this generator was trained with: clarity, fluency, style"),
        ("x", ["--temperature", "2"], "--temperature 2.0 and --top-p 1.0 change nothing without --sample"),
        ("x", ["--input", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_bad_input_of_rewrite_is_one_line(capsys, monkeypatch, generator, text, arguments, words):
    give(monkeypatch, text)
    assert main(["rewrite", "--adapter", str(generator), *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_an_encoder_cannot_write(capsys, options, bert_folder, tmp_path):
    changed = [str(bert_folder) if options[i - 1] == "--model" else value for i, value in enumerate(options)]
    assert main(["revise", *changed, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "cannot write" in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_generator_is_no_predictor(capsys, generator):
    assert main(["predict", "--adapter", str(generator), "--input", "-"]) == 2
    assert main(["rewrite", "--adapter", str(generator / "predictor"), "--input", str(generator / "config.json")]) == 2
    assert "task 'intent', not 'revise'" in capsys.readouterr().err
