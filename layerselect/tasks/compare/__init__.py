"""Methods x seeds on one corpus: each run is one of a task, in a process of its own, one table at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...utils.lazy import imported_when_asked_for

if TYPE_CHECKING:
    from ...utils.paired import Paired
    from .comparison import Comparison, read_comparison
    from .config import CompareConfig
    from .kept import KeptRun
    from .methods import METHODS, Method, Run, Variant, parse_variants
    from .page import compare_report
    from .rows import Row, comparison_rows
    from .run import run_compare
    from .runs import RunFiles, read_run
    from .table import csv_table, markdown_table, used_columns
    from .tasks import TASKS, Task
    from .verdicts import Difference, differences

__all__ = [
    "METHODS",
    "TASKS",
    "CompareConfig",
    "Comparison",
    "Difference",
    "KeptRun",
    "Method",
    "Paired",
    "Row",
    "Run",
    "RunFiles",
    "Task",
    "Variant",
    "compare_report",
    "comparison_rows",
    "csv_table",
    "differences",
    "markdown_table",
    "parse_variants",
    "read_comparison",
    "read_run",
    "run_compare",
    "used_columns",
]

#: Where the names are found; importing them reads transformers, which a help page can do without.
_PLACES = {
    "CompareConfig": ".config",
    "METHODS": ".methods",
    "Method": ".methods",
    "Variant": ".methods",
    "parse_variants": ".methods",
    "compare_report": ".page",
    "Comparison": ".comparison",
    "run_compare": ".run",
    "Run": ".methods",
    "RunFiles": ".runs",
    "read_run": ".runs",
    "Difference": ".verdicts",
    "Paired": "...utils.paired",
    "differences": ".verdicts",
    "KeptRun": ".kept",
    "Row": ".rows",
    "comparison_rows": ".rows",
    "read_comparison": ".comparison",
    "csv_table": ".table",
    "markdown_table": ".table",
    "used_columns": ".table",
    "TASKS": ".tasks",
    "Task": ".tasks",
}

__getattr__ = imported_when_asked_for(__name__, _PLACES)
