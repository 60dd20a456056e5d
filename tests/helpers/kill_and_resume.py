"""Disturbs ``layerselect intent`` at random moments, resumes it until it is finished, and compares what it leaves.

    python -m tests.helpers.kill_and_resume --kills 20 --seed 0
    python -m tests.helpers.kill_and_resume --kills 100 --at either --by kill interrupt full limit second read-only
    python -m tests.helpers.kill_and_resume --kills 100 --at either --processes 2
    python -m tests.helpers.kill_and_resume --kills 20 -- --adapter none --patience 1

Trains a tiny LoRA classifier on 72 revisions once undisturbed (a larger one: ``-- --data demo --model demo``). Then
again, each attempt disturbed, until a run is finished; then the next run, until all disturbances are spent. Weights,
importance, history, metrics, losses and predictions must be the same, byte for byte, nothing else may lie beside the
finished folder, and whoever can say why a process ended says so in one line.

``--at times`` draws a time, uniformly from the duration of the undisturbed run, ``--at operations`` one of the run's
changes of files instead (opened for writing, renamed, removed), right before which it happens, ``--at either`` one of
both. ``--by`` says what happens, drawn for each attempt: the process is killed (``kill``), gets what Ctrl-C sends
(``interrupt``), finds a full disk (``full``), one that may only be read (``read-only``) or files that may not grow
(``limit``), or meets a second run on its folder (``second``). Exit status 1: something differed, or ended wrongly.

With several processes one of them is met, drawn too. ``--fork`` starts each attempt from a process that has imported
everything, so that nearly all disturbances hit work, not imports.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from tests.helpers.disturbed import FROM_OUTSIDE, WAYS, Attempt, Disturbance, fork_command, spawn
from tests.helpers.tiny_intent import corpus_file, save_bert

ARGUMENTS = [
    "intent",
    "--adapter=lora",
    "--lr=3e-3",
    "--batch-size=8",
    "--max-steps=19",
    "--save-steps=7",
    "--probe-every=5",
    "--threads=1",
    "--device=cpu",
]
#: What a disturbed run must have in common with one that was not.
COMPARED = ("adapter", "importance.json", "history.safetensors", "metrics.jsonl", "training.jsonl", "predictions.jsonl")


Start = Callable[[list[str], Disturbance | None, Path], Attempt]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="how many disturbances (default: 20)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments (default: 0)")
    parser.add_argument("--at", choices=("times", "operations", "either"), default="times", help="(default: times)")
    parser.add_argument("--by", nargs="+", choices=WAYS, default=["kill"], metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="of each run (default: 1)")
    parser.add_argument("--fork", action="store_true", help="import once for all attempts (implied where needed)")
    parser.add_argument("--keep", metavar="DIR", help="folder for what was found to be wrong")
    parser.add_argument(
        "options", nargs="*", metavar="-- OPTION", help="of layerselect intent, added to the built-in ones"
    )
    args = parser.parse_args(argv)
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    forks = args.fork or args.at != "times" or args.processes > 1 or not {*args.by} <= {*FROM_OUTSIDE}
    start: Start = partial(fork_command, processes=args.processes) if forks else spawn
    with tempfile.TemporaryDirectory() as scratch:
        return _disturb(args, start, Path(scratch), Console(soft_wrap=True, highlight=False, markup=False))


def _disturb(args: argparse.Namespace, start: Start, folder: Path, console: Console) -> int:
    bert = folder / "bert"
    bert.mkdir()
    made = ["--data", str(corpus_file(folder)), "--model", str(save_bert(bert))]
    command = [*ARGUMENTS, *made, *args.options, "--resume", "--out"]
    expected = start([*command, str(folder / "whole" / "out")], None, folder / "log")
    if (fault := expected.fault(None)) is not None:
        console.print(f"undisturbed: {fault}")
        return 1
    whole = folder / "whole" / "out"
    if args.at != "operations":  # how long it takes is better known the second time, when the files of others are read
        again = start([*command, str(folder / "again" / "out")], None, folder / "log")
        assert digest(folder / "again" / "out") == digest(whole), "two undisturbed runs differ"
        expected = replace(expected, seconds=again.seconds)
    console.print(f"undisturbed: {expected.seconds:.1f} s, changes of files {expected.changes}, {short(digest(whole))}")
    sizes = [path.stat().st_size for path in whole.rglob("*") if path.is_file()]
    draw = random.Random(args.seed)
    run = attempt = spent = wrong = 0
    while spent < args.kills or attempt:
        out = folder / f"run{run}" / "out"
        out.parent.mkdir(exist_ok=True)
        met = None if spent == args.kills else _drawn(args, draw, expected, max(sizes))
        ended = start([*command, str(out)], met, folder / "log")
        spent += met is not None
        attempt += 1
        fault = ended.fault(met.way if met else None)
        if fault is None and ended.finished:
            left = [path.name for path in out.parent.iterdir()]
            if digest(out) != digest(whole) or left != ["out"]:
                fault = f"DIFFERS: {first_difference(out, whole)}"
        wrong += fault is not None
        console.print(
            f"run {run}, attempt {attempt}: {met or 'undisturbed'}; ended {ended.statuses} in {ended.seconds:.1f} s, "
            f"{found(out)}{', a second ended ' + str(ended.second.statuses) if ended.second else ''}"
            f"{', the same' if ended.finished and fault is None else ''}{f': {fault}' if fault else ''}"
        )
        if fault is not None and args.keep is not None:
            for name in ("whole", f"run{run}"):
                shutil.copytree(folder / name, Path(args.keep) / f"run{run}" / name)
        if ended.finished or fault is not None:  # what is left after a fault is no place to go on from
            shutil.rmtree(out.parent)
            run, attempt = run + 1, 0
    console.print(f"{spent} kills, {run} runs, {wrong} of them wrong or different from the one never killed")
    return 1 if wrong else 0


def _drawn(args: argparse.Namespace, draw: random.Random, expected: Attempt, longest: int) -> Disturbance:
    way = draw.choice(args.by)
    counted = [number for number, changes in enumerate(expected.changes) if changes]
    at_change = args.at == "operations" or (args.at == "either" and draw.random() < 0.5)
    size = int(2048 * (longest / 2048) ** draw.random()) if way == "limit" else 0
    if at_change:
        process = draw.choice(counted)
        return Disturbance(way, process, change=draw.randrange(1, expected.changes[process] + 1), size=size)
    return Disturbance(way, draw.randrange(args.processes), seconds=draw.uniform(0, expected.seconds), size=size)


def digest(out: Path) -> dict[str, str]:
    """A checksum for each file that is compared. Where the run lies, which an adapter's settings name, is left out."""
    files = [path for name in COMPARED for path in sorted([out / name, *(out / name).rglob("*")]) if path.is_file()]
    place = str(out.resolve()).encode()
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes().replace(place, b"")).hexdigest() for path in files
    }


def short(digests: dict[str, str]) -> str:
    return f"{len(digests)} files, {hashlib.sha256(str(digests).encode()).hexdigest()[:12]}"


def first_difference(out: Path, whole: Path) -> str:
    ours, theirs = digest(out), digest(whole)
    names = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    left = sorted(path.name for path in out.parent.iterdir() if path.name != "out")
    return ", ".join(names + left)


def found(out: Path) -> str:
    """What the kill left."""
    partial = out.with_name("out.partial")
    if out.exists():
        return "the finished run"
    names = sorted(path.name for path in (partial / "checkpoints").glob("checkpoint-*"))
    unfinished = list((partial / "checkpoints").glob(".unfinished/checkpoint-*"))
    left = [*names, *(f"half of {path.name}" for path in unfinished)]
    return ", ".join(left) or ("no checkpoint" if partial.exists() else "nothing")


if __name__ == "__main__":
    sys.exit(main())
