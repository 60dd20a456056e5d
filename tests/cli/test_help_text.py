"""Help pages: no line runs over, examples keep their lines."""

from __future__ import annotations

import pytest
from layerselect.cli import main
from layerselect.cli.main import COMMANDS

NAMES = [module.__name__.rpartition(".")[2].replace("_", "-") for module in COMMANDS]


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("command", ["", *NAMES])
def test_no_paragraph_runs_over(capsys, monkeypatch, command, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    shown = capsys.readouterr().out
    long = [line for line in shown.splitlines() if len(line) > columns and not line.startswith(" ")]
    assert long == []
    for example in ("layerselect intent --data demo --model demo --out runs/first",):
        if command == "intent":
            assert f"\n  {example}\n" in shown
