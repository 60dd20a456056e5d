"""The options of a comparison that are not those of its runs."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import LayerSelectError
from ...utils.options import check_values, setting
from .launching import launcher_words

COMPARISON = "the comparison"
_MOST_PROCESSES = 1024
#: Of the intention task, where a comparison has other defaults than a run: it is models that are compared.
INTENT_DEFAULTS = {"blend": "none"}
#: What a finished comparison cannot change, and what says how many runs are trained and how.
MAKES_RUNS, TRAINS = ("task", "folds"), ("seeds", "jobs", "threads", "launcher")


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """How many runs there are, how they are run, and how they are compared.

    ``reference=None`` is the method ``all`` if it is compared, else the first one. ``split=None`` is ``test``, or
    ``validation`` where there is no test split.

    Raises:
        LayerSelectError: a value is out of range. The message names its option.
    """

    task: str = setting(
        "intent",
        "what is trained: predictors of intentions, or writers of revisions",
        group=COMPARISON,
        choices=("intent", "revise"),
    )
    seeds: int = setting(
        3, "train every method with the seeds 0 to N - 1", group=COMPARISON, metavar="N", least=1, most=1000
    )
    folds: int | None = setting(
        None,
        "cut all rows into K folds by document and test each of them in turn, so that every row is tested once",
        group=COMPARISON,
        metavar="K",
        least=2,
        most=1000,
    )
    reference: str | None = setting(
        None, "the row that the others are compared with (default: all)", group=COMPARISON, metavar="ROW"
    )
    margin: float | None = setting(
        None,
        "rows that differ by less are as good (default: 0.02 of macro-F1, 0.5 of SARI)",
        group=COMPARISON,
        metavar="X",
        least=0,
        most=100,
    )
    split: str | None = setting(
        None, "the split in the table (default: test, or validation)", group=COMPARISON, metavar="NAME"
    )
    bootstrap: int = setting(2000, "samples of the bootstrap", group=COMPARISON, metavar="N", least=1, most=1_000_000)
    jobs: int = setting(
        1, "train N runs at the same time", group=COMPARISON, metavar="N", least=1, most=_MOST_PROCESSES
    )
    launcher: str | None = setting(
        None,
        "start each run by this program, which starts the processes that share it: 'torchrun --standalone "
        "--nproc-per-node 2', or 'accelerate launch' with its options",
        group=COMPARISON,
        metavar="COMMAND",
    )
    threads: int | None = setting(
        None,
        "CPU threads of a run (default: cores / jobs, or what the launcher says)",
        group=COMPARISON,
        metavar="N",
        least=1,
        most=_MOST_PROCESSES,
    )

    def __post_init__(self) -> None:
        check_values(self)
        if launcher_words(self.launcher) and self.jobs > 1:
            raise LayerSelectError(
                f"--jobs {self.jobs} with --launcher: the processes of several runs would take the same GPUs and "
                "ports; use --jobs 1"
            )
