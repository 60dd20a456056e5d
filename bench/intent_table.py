"""Trains the intention task with several rules and seeds and prints one table of quality, time and memory.

    python bench/intent_table.py --rules all variance --seeds 0 1 2 --out runs/table -- \
        --data iterater-sent:PATH --splits official --model PATH --keep last --measure-memory

What follows ``--`` goes to ``layerselect intent`` as it is. Every run is a process of its own with its folder under
``--out``; a run that is finished there is not repeated, an interrupted one is resumed. Seeds stand in the outer loop, so
that what else the machine does weighs on all rules alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

METRICS = ("macro_f1", "macro_auprc", "accuracy")
FLOORS = ("majority class", "logistic regression")


def train(out: Path, rule: str, seed: int, options: list[str]) -> dict | None:
    """The results of one run, or None if it failed (its messages have been shown)."""
    folder = out / f"{rule.replace(':', '-').replace('=', '').replace('/', '-')}-seed{seed}"
    if not (folder / "results.json").exists():
        command = [sys.executable, "-m", "layerselect", "intent", "--rule", rule, "--seed", str(seed)]
        command += ["--out", str(folder), "--resume", *options]
        print(f"rule {rule}, seed {seed}", file=sys.stderr, flush=True)
        if subprocess.run(command, stdout=sys.stderr).returncode != 0:
            return None
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def spread(values: list[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def table(runs: dict[str, list[dict]], split: str) -> str:
    lines = [
        f"| {split} | macro-F1 | macro AUPRC | accuracy | s per step | saved MB | layers with gradients |",
        "|---|---|---|---|---|---|---|",
    ]
    any_run = next(iter(runs.values()))[0]
    for floor in FLOORS:
        report = any_run["splits"][split]["reports"][floor]
        lines.append(f"| {floor} | " + " | ".join(f"{report[metric]:.3f}" for metric in METRICS) + " | | | |")
    for rule, results in runs.items():
        reports = [result["splits"][split]["reports"]["trained model"] for result in results]
        facts = [result["training"] for result in results]
        cells = [spread([report[metric] for report in reports], 3) for metric in METRICS]
        cells.append(spread([fact["seconds_per_step"] for fact in facts], 3))
        saved = [fact["saved_mb"] for fact in facts if "saved_mb" in fact]
        cells.append(spread(saved, 1) if saved else "")
        cells.append(f"{statistics.mean(f['layers_with_gradient'] for f in facts):.1f} of {facts[0]['num_layers']}")
        lines.append(f"| `{rule}`, {len(results)} seed(s) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    arguments, options = _split(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", nargs="+", default=["all", "variance"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--split", default="validation", help="the split that is reported")
    parser.add_argument("--out", type=Path, required=True)
    known = parser.parse_args(arguments)
    runs: dict[str, list[dict]] = {}
    failed = []
    for seed in known.seeds:
        for rule in known.rules:
            result = train(known.out, rule, seed, options)
            if result is None:
                failed.append(f"{rule} seed {seed}")
            else:
                runs.setdefault(rule, []).append(result)
    if runs:
        print(table(runs, known.split))
    if failed:
        print("failed: " + ", ".join(failed))
    return 1 if failed else 0


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    if "--" in arguments:
        at = arguments.index("--")
        return arguments[:at], arguments[at + 1 :]
    return arguments, []


if __name__ == "__main__":
    raise SystemExit(main())
