import logging
import re
import subprocess
import sys
from dataclasses import MISSING, fields

import pytest
from layerselect.cli import main
from layerselect.cli.main import build_parser
from layerselect.data import load_corpus


def run(capsys, *arguments):
    """(exit status, stdout, stderr) of a command."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as error:
        status = error.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize("command", [[], ["demo"], ["intent"], ["predict"], ["data"], ["data", "describe"], ["doctor"]])
def test_every_command_explains_itself(capsys, command):
    status, out, _ = run(capsys, *command, "--help")
    assert status == 0
    if command and command != ["data"]:
        assert "example" in out
    for line in out.splitlines():
        assert "==SUPPRESS==" not in line
        assert "None" not in line


def intent_options():
    """The options of ``layerselect intent`` by destination."""
    commands = next(action for action in build_parser()._actions if action.choices)
    return {action.dest: action for action in commands.choices["intent"]._actions}


def test_the_defaults_in_the_help_are_those_of_the_settings():
    from layerselect.tasks.intent import IntentConfig

    options = intent_options()
    for field in fields(IntentConfig):
        shown = re.search(r"\(default: (.*)\)$", options[field.name].help)
        if field.default is None or field.default is False or field.default is MISSING:
            assert shown is None, field.name
        elif field.name == "summary":
            assert shown.group(1) == "yes"
        elif isinstance(field.default, str):
            assert shown.group(1) == field.default
        else:
            assert float(shown.group(1)) == field.default, field.name


def test_every_setting_is_an_option_that_leaves_no_trace_unless_given():
    from layerselect.tasks.intent import IntentConfig

    given = vars(build_parser().parse_args(["intent", "--data", "a", "--model", "b", "--out", "c"]))
    names = {field.name for field in fields(IntentConfig)}
    assert names <= set(intent_options())
    assert names & set(given) == {"data", "model", "out"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["intent", "--model", "demo"], "required: --data, --out"),
        (
            ["intent", "--data", "demo", "--model", "demo", "--out", "x", "--epochs", "many"],
            "'many' is not a number",
        ),
        (["intent", "--data", "demo", "--model", "demo", "--out", "x", "--splits", "odd"], "invalid choice: 'odd'"),
        (["predict", "--adapter", "x", "--input", "-", "--batch-size", "0"], "'0' is not a whole number of at least 1"),
        (["demo", "--threads", "-2"], "'-2' is not a whole number of at least 1"),
    ],
)
def test_a_bad_option_is_one_line(capsys, arguments, words):
    status, out, err = run(capsys, *arguments)
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    assert words in err
    assert "--help" in err


def test_python_dash_m(environment):
    done = subprocess.run(
        [sys.executable, "-m", "layerselect", "--version"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("layerselect ")


def test_an_interruption_says_how_to_go_on(capsys, monkeypatch, tmp_path):
    import layerselect.tasks.intent as task

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(task, "run_intent", interrupted)
    status, _, err = run(capsys, "intent", "--data", "demo", "--model", "demo", "--out", tmp_path / "x")
    assert status == 130
    assert "--resume" in err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied", "/locked/out"), "'/locked/out': Permission denied"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ModuleNotFoundError("No module named 'peft'", name="peft.tuners"), "pip install 'layerselect[data]'"),
        (ModuleNotFoundError("No module named 'jinja2'", name="jinja2"), "pip install 'layerselect[report]'"),
    ],
)
def test_errors_of_the_machine_are_one_line(capsys, monkeypatch, tmp_path, error, words):
    import layerselect.tasks.intent as task

    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(task, "run_intent", fails)
    status, _, err = run(capsys, "intent", "--data", "demo", "--model", "demo", "--out", tmp_path / "x")
    assert status == 2
    assert err.count("\n") == 1
    assert words in err


def test_a_defect_of_ours_is_not_hidden(monkeypatch, tmp_path):
    import layerselect.tasks.intent as task

    def fails(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(task, "run_intent", fails)
    with pytest.raises(ZeroDivisionError):
        main(["intent", "--data", "demo", "--model", "demo", "--out", str(tmp_path / "x")])


def test_options_given_win_over_the_demo_models_own(monkeypatch, tmp_path):
    import layerselect.tasks.intent as task

    seen = []

    def record(config, **kwargs):
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(task, "run_intent", record)
    monkeypatch.setattr("layerselect.tasks.plan.before.planned_run", lambda config: None)  # it asks the hub
    base = ["intent", "--data", "demo", "--out", str(tmp_path / "x"), "--model"]
    main([*base, "demo"])
    main([*base, "demo", "--adapter", "lora", "--lr", "0.5"])
    main([*base, "elsewhere"])
    assert [(c.adapter, c.lr) for c in seen] == [("none", 7e-4), ("lora", 0.5), ("lora", 1e-3)]
    assert [c.window for c in seen] == [30, 30, 4]


def test_commands_are_listed_in_the_help():
    text = build_parser().format_help()
    assert all(name in text for name in ("demo", "intent", "predict", "data", "doctor"))


@pytest.mark.parametrize("name", ["[/b]", "[bold", "[red]x", "\x1b[31m"])
def test_names_are_no_markup(capsys, name):
    status, _, err = run(capsys, "doctor", "--unpack", name, "new")
    assert status == 2
    assert err.splitlines()[-1].startswith("layerselect: ")


def test_a_sentence_about_a_corpus_is_said_once_in_a_command(capsys, tmp_path):
    """A comparison by folds reads its corpus once for each fold; the next command says it again."""
    path = tmp_path / "c.csv"
    lines = [f"Old {n}.,New {n}.,{('Style', 'style')[n % 2]},d{n}" for n in range(12)]
    path.write_text("\n".join(["before,after,label,doc_id", *lines]))
    for _ in range(2):
        assert main(["data", "describe", str(path), "--json"]) == 0
        for _ in range(2):
            load_corpus(path)
        logging.getLogger("layerselect.tasks").warning("of something else")
        logging.getLogger("layerselect.tasks").warning("of something else")
        error = capsys.readouterr().err
        assert error.count("differ in capitals") == 1 and error.count("of something else") == 2
