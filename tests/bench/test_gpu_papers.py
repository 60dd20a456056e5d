"""bench/gpu_papers.py, at toy size on the CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def papers(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import gpu_papers

    return gpu_papers


@pytest.mark.parametrize("name", ["cached-upper-quarter", "ir-tuning", "full"])
def test_a_row_trains_and_stands_beside_its_plan(papers, tmp_path, monkeypatch, name):
    monkeypatch.setattr(papers, "STEPS", 2)
    row = next(row for row in papers.ROWS if row.name == name)
    found = papers.measure(row, tmp_path, toy=True)
    assert found["seconds"] > 0 and found["planned_peak"] >= found["planned_usual_peak"] > 0
    assert found["arithmetic"] > 0 and found["card"]


def test_what_is_finished_is_not_run_again_and_a_failure_is_a_row(papers, tmp_path, monkeypatch, capsys):
    ran = []

    def run_row(row, options, left):
        ran.append(row.name)
        found = {"failed": "out of memory"} if row.name == "full" else _found()
        papers._write(options.out / f"{row.name}.json", found)

    monkeypatch.setattr(papers, "_run_row", run_row)
    monkeypatch.setattr(sys, "argv", ["gpu_papers", "--toy", "--out", str(tmp_path)])
    (tmp_path / "gate.json").write_text(json.dumps(_found()))
    assert papers.main() == 0
    assert ran == [row.name for row in papers.ROWS if row.name != "gate"]
    assert ran[-1] == "full"  # what takes the most comes last
    said = capsys.readouterr().out
    assert "| full | out of memory |" in said and "18 to 28 GB" in said
    assert papers.main() == 0
    assert len(ran) == len(papers.ROWS) - 1


def _found():
    return {
        "seconds": 0.5,
        "samples": 32.0,
        "peak": 2_000_000_000,
        "usual_peak": 1_000_000_000,
        "planned_peak": 2_100_000_000,
        "planned_usual_peak": 1_100_000_000,
    }
