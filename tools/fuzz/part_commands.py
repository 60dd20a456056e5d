"""Commands that nobody meant: options with odd values and odd paths, through the real parser and every check before a
corpus or a model is loaded. Nothing trains.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import layerselect.tasks.compare.run as compare
import layerselect.tasks.plan.plan as plans
from layerselect.cli import main
from layerselect.cli.main import build_parser
from layerselect.errors import LayerSelectError
from layerselect.tasks.run.settings import TrainingSettings

from .mutate import ODD_TEXTS, break_text

NUMBERS = (
    "0",
    "1",
    "2",
    "0.5",
    "-1",
    "1e-3",
    "4294967296",
    "9007199254740993",
    "1e308",
    "inf",
    "\u0663",
    "\uff11",
    "1_0",
    "0x1",
    "+1",
    " 1 ",
)
PATHS = (
    ".",
    "..",
    "/",
    "",
    " ",
    "./",
    "new",
    "new/",
    "new/deep/er",
    "a.file",
    "a.file/below",
    "a folder",
    "a folder/",
    "a folder/..",
    "../here",
    "~",
    "~nobody",
    "~/x",
    "n" * 300,
    "n" * 250,
    "d/" * 2000 + "x",
    "nul\0",
    "\ud800",
    "line\nbreak",
    "\x1b[31mred",
    "link",
    "circle",
    "dangling",
    "/dev/null",
    "/dev/full",
    "/proc/self/x",
    "-",
    "--",
    "demo",
    "x:y",
    "iterater-sent:",
    "generic:a.file",
    "generic:demo",
    "\u202e",
    "org/name",
)
RULES = (
    "all",
    "variance",
    "topk",
    "topk:k=2",
    "topk:k=0",
    "topk:k=2;k=3",
    "fixed:layers=[0,1]",
    "fixed:layers=[]",
    "cost-aware:budget=0.5",
    "lisa:k=2",
    'probe-once:base="topk:k=1"',
    'layer-card:card="a folder";k=1',
    "no such",
    "topk:",
    ":",
    ";",
    "topk:k=" + "[" * 3000,
    "topk:k=" + "9" * 5000,
    "topk:k=1e999",
    "topk:k=NaN",
    "topk:nothing=1",
    'probe-once:base="' + "probe-once:base=" * 50 + '"',
    "random:k=true",
    "fixed:layers=[[1]]",
)
METHODS = (
    "all",
    "ir",
    "ir/lora",
    "ir/",
    "/",
    "ir,ir",
    ",",
    "random,all",
    "nothing",
    "ir/nothing",
    "a" * 3000,
    "none=1",
    "lora=x",
    "=1",
    "lora=1e999",
)
OPTIONS = (
    "probe_every",
    "resume",
    "lag",
    "history",
    "model",
    "rule",
    "mode",
    "warmup",
    "",
    "a b",
    "layers",
    "cut",
    "seed",
)
SIZES = (
    "24GB",
    "80GiB",
    "0GB",
    "-1GB",
    "GB",
    "1e400GB",
    "24 gb",
    "24",
    "nan",
    "infGB",
    "9" * 5000 + "GB",
    "0.5TB",
    "\u0663GB",
)
#: What a command needs to begin; where an option is named again, the last one counts.
NEEDED = {
    ("demo",): ["--out", "new"],
    ("plan",): ["--model", "a config.json"],
    ("run",): [],
    ("intent",): ["--data", "demo", "--model", "demo", "--out", "new"],
    ("revise",): ["--data", "demo", "--model", "demo", "--out", "new"],
    ("compare",): ["--data", "demo", "--model", "demo", "--out", "new"],
    ("card",): ["--data", "demo", "--model", "demo", "--out", "new"],
    ("card", "diff"): [],
    ("predict",): ["--adapter", "a folder", "--input", "rows.jsonl"],
    ("merge",): ["--adapter", "a folder", "--out", "new"],
    ("rewrite",): ["--adapter", "a folder", "--input", "a.file"],
    ("state-cache", "ls"): [],
    ("state-cache", "rm"): [],
    ("data", "describe"): ["rows.jsonl"],
    ("doctor",): [],
}
#: Behind ``--``, for ``layerselect run``.
PROGRAMS = (
    ["a program.py"],
    ["a program.py", "--", "--rule", "x"],
    ["-m", "this"],
    ["-m"],
    ["-m", "no.such.module"],
    ["-m", ""],
    ["-m", "..relative"],
    ["no such.py"],
    ["a folder"],
    ["a.file"],
    ["ends.py"],
    [""],
    ["nul\0"],
    ["\ud800"],
    [],
)
ENCODINGS = ("utf-8", "ascii", "cp1252")


class Enough(BaseException):
    """Every check was passed, and what follows costs time."""


def cases(rng: random.Random) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Without end: one command line a case."""
    make_places()
    plans.Models = enough  # type: ignore[assignment, misc]
    TrainingSettings.load_corpus = compare._compared = enough  # type: ignore[assignment]
    parsers = {command: _parser(command) for command in NEEDED}
    while True:
        command = rng.choice(list(NEEDED))
        arguments = [*command, *NEEDED[command], *_arguments(parsers[command], rng)]
        if command == ("run",) and rng.random() < 0.9:
            arguments += ["--", *rng.choice(PROGRAMS)]
        encoding = rng.choice(ENCODINGS)

        def run(arguments: list[str] = arguments, encoding: str = encoding) -> Any:
            return call(arguments, encoding)

        yield ascii(" ".join(argument[:80] for argument in arguments))[:300], run


def call(arguments: list[str], encoding: str) -> str:
    """Runs a command in this process.

    Raises:
        LayerSelectError: it was refused, in these words.
        AssertionError: it ended as no command may.
    """
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    try:
        status: Any = main(arguments)
    except SystemExit as error:
        status = error.code
    except Enough:
        return "enough"
    finally:
        said = sys.stderr
        sys.stdout, sys.stderr = streams
    said.flush()
    text = said.buffer.getvalue().decode(encoding)
    assert "Traceback" not in text, text[-300:]
    if status in (0, None):
        return "done"
    lines = text.removesuffix("\n").split("\n")
    assert status == 2, f"status {status}: {text[-300:]}"
    assert lines[-1].startswith("layerselect"), f"its last line is {lines[-1][:100]!r}"
    assert all(line.isprintable() for line in lines), f"not printable: {text[:300]!a}"
    raise LayerSelectError(lines[-1])


def enough(*args: Any, **kwargs: Any) -> NoReturn:
    """Ends a case."""
    raise Enough


def _parser(command: tuple[str, ...]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = build_parser()
    for name in command:
        parser = next(action.choices for action in parser._actions if isinstance(action.choices, dict))[name]
    return parser


def _arguments(parser: argparse.ArgumentParser, rng: random.Random) -> list[str]:
    actions = [action for action in parser._actions if action.option_strings and action.dest not in ("help", "threads")]
    chosen: list[str] = []
    for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 5))):
        action = rng.choice(actions)
        flag = rng.choice(action.option_strings)
        if rng.random() < 0.05:
            flag = rng.choice((flag[:-1], flag + "x", break_text(flag, rng)))
        if action.nargs == 0:
            chosen.append(flag)
            continue
        values = [_value(action, rng) for _ in range(action.nargs if isinstance(action.nargs, int) else 1)]
        chosen += [f"{flag}={values[0]}"] if len(values) == 1 and rng.random() < 0.5 else [flag, *values]
    if rng.random() < 0.3 or not actions:
        chosen += [rng.choice(PATHS) for _ in range(rng.choice((1, 2)))]
    if rng.random() < 0.05:
        chosen += [
            "--threads",
            rng.choice(("0", "-1", "\u00b2", "9" * 30, "1.5", "")),
        ]  # one that is taken would start them
    return chosen


def _value(action: argparse.Action, rng: random.Random) -> str:
    name = action.dest
    if rng.random() < 0.2:
        return rng.choice(ODD_TEXTS)
    if action.choices and rng.random() < 0.8:
        return rng.choice(list(action.choices))
    if name in ("rule", "cut", "predictor_rule"):
        return rng.choice(RULES + NUMBERS)
    if name == "selector_option":
        return f"{rng.choice(OPTIONS)}{rng.choice(('=', '=', '=', ':', ''))}{rng.choice(RULES + NUMBERS)}"
    if name == "gpu":
        return rng.choice(SIZES)
    if name in ("methods", "adapters", "adapter_lr", "reference"):
        return rng.choice(METHODS)
    if action.metavar in ("DIR", "FILE", "CORPUS", "MODEL") or isinstance(action.metavar, tuple):
        return rng.choice(PATHS) if rng.random() < 0.9 else break_text(rng.choice(PATHS), rng)
    return rng.choice(NUMBERS) if rng.random() < 0.8 else break_text(rng.choice(NUMBERS), rng)


def make_places() -> None:
    Path("a folder").mkdir(exist_ok=True)
    Path("a program.py").write_text("import sys\n", encoding="utf-8")
    Path("ends.py").write_text("raise SystemExit(0)\n", encoding="utf-8")
    Path("a config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    Path("a.file").write_text("It are so.\n", encoding="utf-8")
    rows = [{"before": f"It are {i}.", "after": f"It is {i}.", "label": "fluency", "doc_id": i % 5} for i in range(12)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name, target in (("link", "a folder"), ("circle", "circle"), ("dangling", "nowhere")):
        Path(name).unlink(missing_ok=True)
        Path(name).symlink_to(target)
