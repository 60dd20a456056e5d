"""Methods x seeds on one corpus: each run is one of a task, in a process of its own, one table at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...utils.lazy import imported_when_asked_for

if TYPE_CHECKING:
    from .config import CompareConfig
    from .methods import METHODS, Method, Run, Variant, parse_variants
    from .page import compare_report
    from .run import Comparison, run_compare
    from .runs import RunResult, read_run
    from .significance import Difference, holm, paired_bootstrap
    from .table import Row, comparison_rows, csv_table, markdown_table, used_columns
    from .tasks import TASKS, Task

__all__ = [
    "METHODS",
    "TASKS",
    "CompareConfig",
    "Comparison",
    "Difference",
    "Method",
    "Row",
    "Run",
    "RunResult",
    "Task",
    "Variant",
    "compare_report",
    "comparison_rows",
    "csv_table",
    "holm",
    "markdown_table",
    "paired_bootstrap",
    "parse_variants",
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
    "Comparison": ".run",
    "run_compare": ".run",
    "Run": ".methods",
    "RunResult": ".runs",
    "read_run": ".runs",
    "Difference": ".significance",
    "holm": ".significance",
    "paired_bootstrap": ".significance",
    "Row": ".table",
    "comparison_rows": ".table",
    "csv_table": ".table",
    "markdown_table": ".table",
    "used_columns": ".table",
    "TASKS": ".tasks",
    "Task": ".tasks",
}

__getattr__ = imported_when_asked_for(__name__, _PLACES)
