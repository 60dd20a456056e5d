"""Methods x seeds on one corpus: each run is one of a task, in a process of its own, one table at the end."""

from .config import CompareConfig
from .methods import METHODS, Method, Variant, parse_variants
from .page import compare_report
from .run import Comparison, run_compare
from .runs import Run, RunResult, read_run
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
