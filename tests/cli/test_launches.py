"""Several processes of one command: who speaks, and which commands are for one."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from layerselect.cli.main import main
from layerselect.utils.launch import check_launcher, launched


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    package = logging.getLogger("layerselect")
    level = package.level
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    yield
    package.setLevel(level)  # the second process is quiet


@pytest.mark.parametrize(
    "command",
    [
        ["compare", "--data", "demo", "--model", "demo", "--out", "x"],
        ["card", "--data", "demo", "--model", "demo", "--out", "x"],
        ["predict", "--adapter", "x", "--input", "y"],
        ["rewrite", "--adapter", "x", "--input", "y"],
        ["demo"],
    ],
)
def test_commands_for_one_process_say_so(second_of_two, capsys, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"layerselect: layerselect {command[0]} is a command for one process, and 2 were started")
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ({"RANK": "x"}, "RANK='x'"),
        ({"RANK": "\u00b2"}, "RANK='\u00b2'"),
        ({"RANK": "2"}, "RANK='2'"),
        ({"LOCAL_RANK": "5"}, "LOCAL_RANK='5'"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT='65536'"),
        ({"MASTER_PORT": ""}, "MASTER_PORT=''"),
        ({"MASTER_ADDR": " "}, "no MASTER_ADDR"),
    ],
)
def test_a_launcher_that_says_nonsense_is_told_so(second_of_two, capsys, monkeypatch, told, named, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, text in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29512", "LOCAL_RANK": "1", **told}.items():
        monkeypatch.setenv(name, text)
    assert main(["intent", "--data", "demo", "--model", "demo", "--out", "x", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert named in said and "torchrun" in said and said.count("\n") == 1


@pytest.mark.parametrize("count", ["", "0", "x", "\u00b2", "-1", "9" * 5000])
def test_a_count_that_is_none_means_one_process(monkeypatch, count):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", count)
    assert launched() == 1
    check_launcher()


def test_processes_that_cannot_be_connected_are_one_sentence(second_of_two, capsys, monkeypatch, tmp_path):
    def fails(**options):
        raise RuntimeError("The client socket has timed out\nframe #0")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("layerselect.tasks.run.processes.PartialState", fails)
    monkeypatch.setenv("MASTER_PORT", "29512")
    monkeypatch.setenv("MASTER_ADDR", "here")
    assert main(["intent", "--data", "demo", "--model", "demo", "--out", "x", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "2 processes were started and cannot be connected at 'here:29512'" in said and said.count("\n") == 1


def test_who_has_no_launcher_to_ask_speaks(second_of_two, capsys):
    with pytest.raises(SystemExit):
        main(["intent", "--data", "demo", "--model", "demo", "--out", "x", "--nonsense"])
    assert "--nonsense" in capsys.readouterr().err


def test_one_of_several_speaks(second_of_two, capsys, monkeypatch):
    said = iter([1, 2])

    class Store:
        def add(self, key, amount):
            return next(said)

    monkeypatch.setattr("layerselect.cli.launches.launcher_store", Store)
    for expected in (True, False):
        with pytest.raises(SystemExit) as ended:
            main(["intent", "--data", "demo", "--model", "demo", "--out", "x", "--nonsense"])
        assert ended.value.code == 2
        assert ("--nonsense" in capsys.readouterr().err) is expected
