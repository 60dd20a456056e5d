"""One line about what is going on: its name, how far it is, how long it will take, and the newest numbers.

On a terminal it is drawn anew in place. Where the output is redirected, a plain line comes every ten seconds in which
nothing else was written, so that nobody has to wonder whether the program still works.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

#: Seconds of silence after which a plain line is written.
_SILENCE = 10.0
_NARROW = 72


class StageLine:
    """The line, to be used as a context.

    Args:
        silence: seconds after which a plain line is written where the output is no terminal.
    """

    def __init__(self, *, silence: float = _SILENCE) -> None:
        self._console = Console(stderr=True)
        self._plain = not self._console.is_terminal
        width = 8 if self._console.width < _NARROW else 20
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            _Count(table_column=Column(no_wrap=True)),
            _Left(table_column=Column(no_wrap=True)),
            BarColumn(bar_width=width),
            TextColumn("{task.fields[facts]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            console=self._console,
            disable=self._plain,
            expand=True,
        )
        self._task = self._added("")
        self._silence, self._written = silence, time.monotonic()
        self._ended = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> StageLine:
        self._progress.start()
        if self._plain:
            self._heartbeat.start()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._ended.set()
        self._progress.stop()
        if self._plain:
            self._heartbeat.join()

    def begin(self, name: str, total: int | None = None) -> None:
        """Something else goes on now."""
        before, self._task = self._task, self._added(escape(name), total)  # a reset one would keep the total it had
        self._progress.remove_task(before)

    def _added(self, description: str, total: int | None = None) -> TaskID:
        return self._progress.add_task(description, total=total, facts="", first=None, part=0.0)

    def advance(self, done: int, total: int | None = None, *, part: float = 0.0, found: bool = False) -> None:
        """So much of it is done. What is done when this is said first tells nothing of how fast it goes: it may have
        been there before.

        Args:
            part: so much more is done of what is under way, which tells how long it takes.
            found: it was there before for certain, so the time is counted from now on.
        """
        changes: dict[str, Any] = {"part": part, **({} if total is None else {"total": total})}
        if found or self._progress.tasks[0].fields["first"] is None:
            changes["first"] = (time.monotonic(), done + part)
        self._progress.update(self._task, completed=done, **changes)

    def facts(self, text: str) -> None:
        """The newest numbers."""
        self._progress.update(self._task, facts=escape(text))

    def say(self, line: str, style: str | None = None) -> None:
        """Writes a line that stays."""
        self._written = time.monotonic()
        self._console.print(escape(line), highlight=False, soft_wrap=True, style=style)

    def _beat(self) -> None:
        while not self._ended.wait(min(1.0, self._silence / 4)):
            if time.monotonic() - self._written >= self._silence:
                self.say(self._line())

    def _line(self) -> str:
        """What the bar would show, in words."""
        task = self._progress.tasks[0]
        parts = [
            Text.from_markup(task.description).plain or "working",
            _count(task),
            _left(task),
            Text.from_markup(task.fields["facts"]).plain,
        ]
        return ", ".join(part for part in parts if part)


class _Count(ProgressColumn):
    """How much of how much is done."""

    def render(self, task: Task) -> Text:
        return Text(_count(task))


class _Left(ProgressColumn):
    """How long it will take, or how long it has taken where nobody knows."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        return Text(_left(task))


def _count(task: Task) -> str:
    return "" if task.total is None else f"{int(task.completed)} of {int(task.total)}"


def _left(task: Task) -> str:
    first, done = task.fields["first"], task.completed + task.fields["part"]
    if task.total is not None and first is not None and first[1] < done < task.total:
        began, before = first
        each = (time.monotonic() - began) / (done - before)
        return f"{_clock(each * (task.total - done))} left"
    return f"{_clock(task.elapsed or 0.0)} so far"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
