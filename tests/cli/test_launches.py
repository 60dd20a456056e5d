"""Several processes of one command: who speaks, and which commands are for one."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from layerselect.cli.main import main


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
