"""One thing to try: a row of the table, or one of several that the table joins."""

from __future__ import annotations

from dataclasses import dataclass

#: Modes that a loop in one process can be in.
BOTH = ("freeze", "gate")
#: For frameworks that choose themselves: freeze in one process, gate in several.
AUTO = ("auto",)

WORKS = ("works",)
REFUSED = ("refused",)
SAID = ("refused", "warned")  #: the package said it, one way or the other


@dataclass(frozen=True)
class Case:
    """One thing to try.

    Args:
        name: unique; results and logs are filed under it.
        section: the part of the table.
        program: the module in ``frameworks/programs``.
        arguments: of the program's ``main``.
        framework, optimizer, adapter, engine: the row's columns.
        packages: whose versions stand in the row.
        environment: where it runs.
        modes: of the selector; the program runs once in each.
        launcher: what starts the processes: ``""`` (one process), ``"torchrun"``, or options of ``accelerate launch``.
        processes: how many report.
        timeout: seconds for all of it.
        variables: of the environment.
        right: the results that are right. Others are listed when all is done.
        alike: whether all processes hold the same layers, and have to choose the same.
        says: an expression that the sentence of a refusal or a warning has to match, to be right.
        untried: why it is not run.
    """

    name: str
    section: str
    program: str
    arguments: tuple[str, ...] = ()
    framework: str = "plain PyTorch"
    optimizer: str = "AdamW"
    adapter: str = "none"
    engine: str = "one process"
    packages: tuple[str, ...] = ()
    environment: str = "project"
    modes: tuple[str, ...] = AUTO
    launcher: str = ""
    processes: int = 1
    timeout: int = 240
    variables: tuple[tuple[str, str], ...] = ()
    right: tuple[str, ...] = WORKS
    alike: bool = True
    says: str = ""
    untried: str = ""
