"""A comparison whose runs ``torchrun`` starts: the only commands of the tests that are under a real launcher."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from layerselect.tasks.compare import CompareConfig, run_compare

from tests.distributed.runs import SETTINGS, facts, made


def test_runs_of_two_processes_are_kept_as_those_of_one(tmp_path, process_environment, monkeypatch):
    for name, value in process_environment.items():
        monkeypatch.setenv(name, value)
    place = made(tmp_path, 0)
    settings = {name: value for name, value in SETTINGS.items() if name != "adapter"}
    base = {**settings, "data": str(place / "revisions.jsonl"), "model": str(place / "bert"), "max_steps": 2}
    launcher = shlex.join([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"])
    config = CompareConfig(
        out=str(tmp_path / "c"), base={**base, "fsdp": True}, methods=("all",), seeds=1, bootstrap=20, launcher=launcher
    )
    shown = []
    comparison = run_compare(config, on_event=lambda kind, record: shown.append((kind, record)))
    assert [result.reason for result in comparison.results] == [None]
    run = Path(config.out) / "runs" / "all-lora-seed0"
    assert (facts(run)["processes"], facts(run)["sharded"]) == (2, True)
    costs = json.loads((Path(config.out) / "kept" / "all-lora-seed0.costs.json").read_text())["training"]
    assert costs["processes"] == 2
    assert sorted(path.name for path in run.parent.iterdir()) == ["all-lora-seed0", "all-lora-seed0.log"]
    parts = [record["text"] for kind, record in shown if kind == "part"]
    assert "training" in parts and parts.count("loading") == 1  # one process tells
