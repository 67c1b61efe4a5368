"""The progress of a long scan, or of many pieces of a work: a bar, or a line now and then."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from gatewatch.models.findings import lasted
from gatewatch.service.cli_support.terminal import warn

LINE_S = 20.0
"""Seconds between lines where there is no terminal for a bar."""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Readings done, and how many a second."""
        rate = task.finished_speed or task.speed or 0
        return Text(f"{task.completed:,.0f} readings, {rate:,.0f} a second")


class ScanProgress:
    """Counts readings, and shows how they go on."""

    def __init__(self, bar: Progress | None, what: str = "scan") -> None:
        self._bar = bar
        self._task = None if bar is None else bar.add_task(what, total=None)
        self._begun = self._said = time.monotonic()
        self.done = 0
        self._expected = 0

    def expect(self, readings: int) -> None:
        """Take into account that so many more are to come, about."""
        self._expected += readings
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=self._expected)

    def count(self, readings: int) -> None:
        """Take into account that so many more are done."""
        self.done += readings
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, total=max(self._expected, self.done))
        elif time.monotonic() - self._said > LINE_S:
            self._said = time.monotonic()
            warn(self._line())

    def _line(self) -> str:
        rate = self.done / max(1e-9, time.monotonic() - self._begun)
        left = max(0, self._expected - self.done) / max(1e-9, rate)
        return f"{self.done:,} of about {self._expected:,} readings, {rate:,.0f} a second, {lasted(round(left))} left"


class ItemsProgress:
    """Counts pieces of a work, and shows how they go on."""

    def __init__(self, total: int, what: str, bar: Progress | None) -> None:
        self._total, self._what, self._bar = total, what, bar
        self._task = None if bar is None else bar.add_task(what, total=total)
        self._begun = self._said = time.monotonic()
        self.done = 0

    def count(self) -> None:
        """Take into account that one more is done."""
        self.done += 1
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done)
        elif time.monotonic() - self._said > LINE_S:
            self._said = time.monotonic()
            left = (self._said - self._begun) / self.done * (self._total - self.done)
            warn(f"{self.done:,} of {self._total:,} {self._what}, {lasted(round(left))} left")


@contextlib.contextmanager
def items_progress(total: int, what: str) -> Iterator[ItemsProgress]:
    """Show on standard error how many pieces of a work are done: `models`, `files`."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield ItemsProgress(total, what, None)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True, speed_estimate_period=600) as bar:
        yield ItemsProgress(total, what, bar)


@contextlib.contextmanager
def scan_progress(what: str = "scan") -> Iterator[ScanProgress]:
    """Show the progress of a scan, or of something like it, on standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield ScanProgress(None, what)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), _Rate(), TimeRemainingColumn(elapsed_when_finished=True))
    with Progress(*columns, console=console, transient=True, speed_estimate_period=60) as bar:
        yield ScanProgress(bar, what)
