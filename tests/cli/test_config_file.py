"""Options from a file: as if somebody had typed them, and those that are typed win."""

from __future__ import annotations

import json

import pytest
from layerselect import LayerSelectError
from layerselect.cli.config_file import with_config_file
from layerselect.cli.main import build_parser, main

INTENT = """
data: demo
model: demo
output_dir: runs/a
learning-rate: 1e-4
epochs: 2
strict: true
summary: false
rule: 'topk:k=4'
max_steps: null
measure_memory: false
"""


def parsed(tmp_path, text, *arguments, name="run.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return vars(build_parser().parse_args([*arguments, "--config", str(path)]))


def test_a_file_is_options(tmp_path):
    given = parsed(tmp_path, INTENT, "intent")
    expected = {"data": "demo", "model": "demo", "out": "runs/a", "lr": 1e-4, "epochs": 2.0, "strict": True}
    expected |= {"summary": False, "rule": "topk:k=4"}
    assert {name: given[name] for name in expected} == expected
    assert "max_steps" not in given and "measure_memory" not in given


def test_what_is_typed_wins_wherever_it_stands(tmp_path):
    assert parsed(tmp_path, INTENT, "intent", "--lr", "0.5")["lr"] == 0.5
    path = tmp_path / "run.yaml"
    assert vars(build_parser().parse_args(["intent", f"--config={path}", "--summary"]))["summary"] is True


def test_lists_and_options_that_are_repeated(tmp_path):
    text = json.dumps(
        {
            "methods": ["all", "ir/dora"],
            "adapter_lr": ["none=2e-4", "lora=1e-3"],
            "data": "d",
            "model": "m",
            "out": "o",
        }
    )
    given = parsed(tmp_path, text, "compare", name="run.json")
    assert given["methods"] == "all,ir/dora"
    assert given["adapter_lr"] == [("none", 2e-4), ("lora", 1e-3)]


@pytest.mark.parametrize("command", ["intent", "revise"])
def test_the_configuration_of_a_run_repeats_it(tmp_path, command):
    from layerselect.tasks.intent import IntentConfig
    from layerselect.tasks.revise import ReviseConfig

    kind = {"intent": IntentConfig, "revise": ReviseConfig}[command]
    config = kind(data="demo", model="demo", out="runs/a", lr=3e-5, dropout=0.25, strict=True, rule="topk:k=1")
    text = json.dumps({"command": f"layerselect {command}", "settings": config.as_dict(), "corpus": {}})
    given = parsed(tmp_path, text, command, "--out", "runs/b", name="config.json")
    own = (
        "run",
        "command",
        "verbose",
        "threads",
        "resume",
        "overwrite",
        "config",
        "preset",
        "json",
        "dry_run",
        "pilot",
    )
    again = kind(**{name: value for name, value in given.items() if name not in own})
    assert again.as_dict() == {**config.as_dict(), "out": "runs/b"}
    compared = parsed(tmp_path, text, "compare", "--out", "runs/c", name="config.json")
    assert compared["lr"] == 3e-5 and not {"rule", "blend"} & compared.keys()  # what it makes, or has otherwise


@pytest.mark.parametrize(("length", "expected"), [(None, 256), (64, 256), (80, 80)])
def test_another_format_than_that_of_a_run_has_its_own_length(tmp_path, length, expected):
    from layerselect.tasks.intent import IntentConfig

    config = IntentConfig(data="demo", model="demo", out="runs/a", max_length=length)
    text = json.dumps({"command": "layerselect intent", "settings": config.as_dict(), "corpus": {}})
    given = parsed(tmp_path, text, "intent", "--out", "runs/b", "--format", "pair", name="config.json")
    again = IntentConfig(data="demo", model="demo", out="b", format="pair", max_length=given.get("max_length"))
    assert again.max_length == expected
    compared = parsed(tmp_path, text, "compare", "--out", "runs/c", name="config.json")
    assert compared.get("max_length") == (None if expected == 256 else expected)  # each row has its format's


def test_another_placement_than_that_of_a_run_chooses_the_layers(tmp_path):
    settings = {"data": "demo", "model": "demo", "out": "a", "placement": "one.json", "rule": "placement:file=one.json"}
    text = json.dumps({"command": "layerselect intent", "settings": settings, "corpus": {}})
    given = parsed(tmp_path, text, "intent", "--out", "b", "--placement", "two.json", name="config.json")
    assert given["placement"] == "two.json" and "rule" not in given


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch: 3", "there is no option 'epoch', did you mean epochs?"),
        ("zzz: 3", "there is no option 'zzz'"),
        ("config: other.yaml", "there is no option 'config'"),
        ("help: true", "there is no option 'help'"),
        ("epochs: [1, {a: 2}]", "where values belong"),
        ("epochs: {a: 2}", "where one value belongs"),
        ("epochs: yes", "where one value belongs"),
        ("strict: 3", "it is switched by true or false"),
        ("- epochs", "holds no options"),
        ("3: 4", "holds no options"),
        ("", "holds no options"),
        ("a: b: c", "cannot be read"),
        ("a: !!python/object/apply:os.system ['true']", "cannot be read"),
        ("epochs: many", "argument --num-train-epochs/--epochs: 'many' is not a number"),
        ("epochs: -1", "--epochs -1.0 must be above 0"),
        ("schedule: odd", "invalid choice: 'odd'"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, capsys, text, words):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    try:
        status = main(
            ["intent", "--data", "demo", "--model", "demo", "--out", str(tmp_path / "o"), "--config", str(path)]
        )
    except SystemExit as error:
        status = error.code
    shown = capsys.readouterr()
    assert status == 2 and words in shown.err and shown.err.count("\n") == 1 and shown.out == ""


@pytest.mark.parametrize("content", [None, b"\0\0\0", b"\xff\xfe\x00", b"a: " + b"[" * 5000])
def test_files_that_are_no_such_files(tmp_path, content):
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_bytes(content)
    parser = next(each for each in build_parser()._actions if each.choices).choices["intent"]
    with pytest.raises(LayerSelectError, match=r"run\.yaml"):
        with_config_file(["--config", str(path)], parser)


def test_a_command_without_such_files_leaves_the_option_to_its_parser(capsys):
    with pytest.raises(SystemExit):
        main(["doctor", "--config", "x"])
    assert "unrecognized arguments: --config" in capsys.readouterr().err
