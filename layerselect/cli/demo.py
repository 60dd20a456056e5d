"""``layerselect demo``: the intention task on the demo corpus with the demo's small model: with layers selected, with
all layers, and beside both a logistic regression.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from .options import MOST_THREADS, add_common_options, add_json_option, apply_threads, up_to
from .settings import add_settings
from .streams import write_json

if TYPE_CHECKING:
    from ..tasks.intent import RunResult

#: The settings of the run that can be changed.
_SETTINGS = ("rule", "mode", "epochs", "seed", "device")
#: The two trainings, as the last table names them.
_SELECTED, _ALL = "selected layers", "all layers"


def add_command(commands: Any, *, whole: bool = True) -> None:
    """Adds the command ``demo`` to the parser; unless it is ``whole``, without its options."""
    parser = commands.add_parser(
        "demo",
        help="train a small model on a small corpus, in a minute or two",
        description="Makes a corpus by rule, in which what stands around an edit decides what the edit is for, and a "
        "small model. Trains the model twice to predict what each revision is for: by IR-Tuning, and all its layers. "
        "Shows both beside a logistic regression on the changed words. Needs no download.",
        epilog="example:\n  layerselect demo --out demo-run\n\nThen open demo-run/report.html.",
    )
    if not whole:
        return
    parser.add_argument(
        "--out",
        default="layerselect-demo",
        metavar="DIR",
        help="the folder of the run; the one that trains all layers goes to DIR-all; earlier runs there are replaced "
        "(default: layerselect-demo)",
    )
    from ..tasks.intent.config import DEMO_DEFAULTS, IntentConfig

    add_settings(
        parser,
        IntentConfig,
        only=_SETTINGS,
        defaults=DEMO_DEFAULTS,
        helps={"rule": "how layers are selected (see layerselect intent --help)"},
        group="options",
    )
    # The model is so small that a second thread costs more than it brings, above all on a busy machine.
    parser.add_argument("--threads", type=up_to(MOST_THREADS), default=1, metavar="N", help="CPU threads (default: 1)")
    add_json_option(parser)
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs ``layerselect demo`` and returns its exit code."""
    from ..models.load import quiet_transformers
    from ..tasks.intent import IntentConfig, run_intent
    from ..tasks.intent.config import DEMO_DEFAULTS
    from .display import TrainingDisplay, print_results

    given = {name: vars(args)[name] for name in _SETTINGS if name in args}
    settings = {**DEMO_DEFAULTS, "measure_memory": True, **given, "data": "demo", "model": "demo"}
    config = IntentConfig(**settings, out=args.out)
    main = _ALL if config.rule == "all" else _SELECTED
    runs = {main: config}
    if main == _SELECTED:
        every = {**settings, "rule": "all", "mode": "auto"}
        runs[_ALL] = IntentConfig(**every, out=f"{args.out.rstrip('/')}-all")
    apply_threads(args.threads)
    quiet_transformers()
    args.interrupted_hint = ""
    results: dict[str, RunResult] = {}
    for name, config in runs.items():
        with TrainingDisplay() as display:
            display("phase", {"name": name})
            results[name] = run_intent(config, overwrite=True, on_event=display)
    rows = summary(results)
    if args.json:
        others = {name.replace(" ", "_"): result.as_dict() for name, result in results.items() if name != main}
        write_json({**results[main].as_dict(), **others, "summary": rows})
    else:
        print_results(results[main])
        _print_summary(rows)
    return 0


def summary(results: dict[str, RunResult]) -> list[dict[str, Any]]:
    """What each predictor comes to on the test split and what its training takes: the regression, then the runs.

    The time of a step is the processor's where the run was on the processor: other work on the machine is not in it.
    """
    from ..tasks.run.baselines import WordBaseline

    last = next(iter(results.values())).splits[-1]
    rows: list[dict[str, Any]] = [
        {"predictor": WordBaseline.name, "macro_f1": last.reports[WordBaseline.name].macro_f1}
    ]
    for name in (_ALL, _SELECTED):
        if name not in results:
            continue
        facts, reports = results[name].training, results[name].splits[-1].reports
        seconds = "processor_seconds_per_step" if facts["device"] == "cpu" else "seconds_per_step"
        rows.append(
            {
                "predictor": name,
                "macro_f1": list(reports.values())[-1].macro_f1,
                "seconds_per_step": facts[seconds],
                "saved_mb": facts.get("saved_mb"),
                "trained_parameters": facts["trained_parameters"],
            }
        )
    return rows


def _print_summary(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="On the test split, and what a training step takes", title_justify="left")
    table.add_column("predictor", no_wrap=True)
    for column in ("macro-F1", "s a step", "MB for backward", "weights trained"):
        table.add_column(column, justify="right")
    shown = {"macro_f1": "{:.3f}", "seconds_per_step": "{:.4f}", "saved_mb": "{:.1f}", "trained_parameters": "{:,.0f}"}
    for row in rows:
        cells = ["-" if row.get(key) is None else form.format(row[key]) for key, form in shown.items()]
        table.add_row(row["predictor"], *cells, style="bold" if row["predictor"] == _SELECTED else None)
    Console(file=sys.stdout).print(table)
