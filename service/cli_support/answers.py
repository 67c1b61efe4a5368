"""What a scan says in the end: a line, a table of incidents, a picture; or the same as JSON for a script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gatewatch.models.findings import Finding, Findings
from gatewatch.models.recordings.reading import Reader
from gatewatch.models.scan import Scan, Summary
from gatewatch.models.text import counted, one_line
from gatewatch.service.cli_support.pictures import HEADS, cells_of, write_picture
from gatewatch.service.cli_support.terminal import tell
from gatewatch.service.cli_support.terminal_pictures import in_terminal
from gatewatch.service.cli_support.traces import Traces

MOST_SHOWN = 25
"""Incidents in the table; of more, those with the highest scores."""

TABLE_WIDTH = 150
"""Characters of a table that is not for a terminal."""


class Answer:
    """What was found in the scans of some files, taken in part by part."""

    def __init__(self, *, pictured: bool) -> None:
        self.whole = Summary()
        self._files: dict[Path, Summary] = {}
        self._findings = Findings()
        self._traces = Traces() if pictured else None
        self._units: dict[Path, dict[str, str]] = {}

    def note(self, reader: Reader) -> None:
        """Take in the units that a file names."""
        self._units[reader.path] = reader.layout.units

    def take(self, path: Path, scans: Sequence[Scan]) -> None:
        """Take in the scans of a file, or of its next part."""
        self.whole.take(scans)
        self._files.setdefault(path, Summary()).take(scans)
        units = self._units.get(path, {})
        self._findings.take(scans, units)
        if self._traces is not None:
            self._traces.take(scans, units)

    def join(self, other: Answer) -> None:
        """Take in what was found in other files, of other streams, elsewhere."""
        self.whole.join(other.whole)
        self._files |= other._files
        self._findings.join(other._findings)

    @property
    def streams(self) -> list[str]:
        """The streams met."""
        return self.whole.names

    def of(self, path: Path) -> str:
        """One line on a file."""
        return self._files[path].line()

    def show(self, console: Console) -> None:
        """Print the table of incidents."""
        found = self._findings.all()
        if not found:
            tell("No incident.")
            return
        shown = sorted(sorted(found, key=lambda one: -one.score)[:MOST_SHOWN], key=lambda one: one.start_us)
        console.print(incident_table(shown))
        if self.whole.alerts > len(found):
            alerts = f"{self.whole.alerts} alerts in {counted(len(found), 'incident')}"
            tell(f"{alerts}: one that is raised while an incident runs is told with it.")
        if len(found) > len(shown):
            tell(f"{len(found) - len(shown)} more incidents with lower scores; --json has them all.")

    def draw(self, path: Path | None, width: int) -> None:
        """Draw the picture into a file, or on the terminal. Raises GatewatchError where it cannot be written."""
        if self._traces is None:
            return
        findings = self._findings.all()
        traces = self._traces.chosen(findings)
        if path is None:
            for trace in traces:
                tell("\n".join(in_terminal(trace, findings, width)))
            return
        title = ", ".join(one_line(file.name) for file in self._files)[:100]
        more = f" Shown: {len(traces)} of {self._traces.streams} streams." if len(traces) < self._traces.streams else ""
        write_picture(path, title, f"{self.whole.line()}.{more}", traces, findings)

    def as_json(self) -> dict[str, object]:
        """For scripts."""
        return {
            **self.whole.as_json(),
            "files": [{"file": str(path), **one.as_json()} for path, one in self._files.items()],
            "incidents": [one.as_json() for one in self._findings.all()],
        }  # fmt: skip


def incident_table(findings: Sequence[Finding]) -> Table:
    """Incidents, one a row."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in HEADS:
        table.add_column(head, overflow="fold")
    for one in findings:
        table.add_row(*(cell.replace("[", r"\[") for cell in cells_of(one)))
    return table


def console_of_tables() -> Console:
    """Where tables go: as wide as the terminal, or as wide as they need."""
    console = Console()
    return console if console.is_terminal else Console(width=TABLE_WIDTH)
