"""Names of earlier versions on the command line: taken, said once each, and shown nowhere."""

from __future__ import annotations

import pytest
from layerselect.cli.main import main
from layerselect.cli.old_names import COMMANDS, OPTIONS, with_new_names


def test_options_are_replaced_with_and_without_a_value(capsys):
    given = ["intent", "--trunk", "cached", "--trunk-store=/somewhere", "--out", "trunk"]
    assert with_new_names(given) == [
        "intent",
        "--state-cache",
        "cached",
        "--state-cache-store=/somewhere",
        "--out",
        "trunk",
    ]
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "layerselect: --trunk is called --state-cache now",
        "layerselect: --trunk-store is called --state-cache-store now",
    ]


def test_a_command_is_found_under_its_old_name(capsys, tmp_path):
    assert main(["trunk", "ls", "--store", str(tmp_path)]) == 0
    assert "trunk is called state-cache now" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["intent", "revise", "compare"])
def test_every_new_name_is_an_option_and_no_old_one_is_shown(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    page = capsys.readouterr().out
    for old, new in OPTIONS.items():
        assert f"{old} " not in page and (new in page) is (new != "--directions")


def test_the_directions_of_a_card_were_called_probes(capsys):
    assert main(["card", "--probes", "3"]) == 2
    assert "--probes is called --directions now" in capsys.readouterr().err


def test_every_new_name_is_a_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    page = capsys.readouterr().out
    for old, new in COMMANDS.items():
        assert new in page and f" {old} " not in page
