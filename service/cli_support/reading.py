"""What the commands that read recordings share: the options of the reader, and the two lines on what it found."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from gatewatch.models.recordings.options import LISTS, ReadOptions
from gatewatch.models.recordings.reading import Reader
from gatewatch.service.cli_support.terminal import warn

PANEL = "How the files are written"


def _options(
    time_column: Annotated[
        str | None,
        typer.Option(help="column of times, or two with a comma between: date and time", rich_help_panel=PANEL),
    ] = None,
    time_format: Annotated[
        str | None,
        typer.Option(
            help="iso, s, ms, us, ns, excel, day-first, month-first, year-first, or a format as %d.%m.%Y %H:%M",
            rich_help_panel=PANEL,
        ),
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option(help="of times that name none: Europe/Berlin, or +01:00; UTC if not given", rich_help_panel=PANEL),
    ] = None,
    delimiter: Annotated[
        str | None, typer.Option(help="between cells: one character, or tab, semicolon, comma", rich_help_panel=PANEL)
    ] = None,
    decimal: Annotated[str | None, typer.Option(help="in numbers: . or ,", rich_help_panel=PANEL)] = None,
    missing: Annotated[
        list[str] | None,
        typer.Option(
            help="a value or word that stands for a missing one, as -9999 or offline; may be repeated",
            rich_help_panel=PANEL,
        ),
    ] = None,
    long: Annotated[
        str | None,
        typer.Option(
            help="of a value a row: columns of names and of values, as tag,value; or no", rich_help_panel=PANEL
        ),
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(help="column that marks what was wrong, and is no channel; or no", rich_help_panel=PANEL),
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(help="seconds from each row to the next, where the rows have no times", rich_help_panel=PANEL),
    ] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(help="column that is not to be a channel, as a counter; may be repeated", rich_help_panel=PANEL),
    ] = None,
) -> None:
    """The options, to be read off; never called."""


OPTION_NAMES = tuple(inspect.signature(_options).parameters)
"""Of ReadOptions, in the order of the help."""


def reads_recordings(command: Callable[..., None]) -> Callable[..., None]:
    """A command that gets the reader's options as `how`; an option that it has itself stays its own."""
    own = dict(inspect.signature(command, eval_str=True).parameters)
    del own["how"]
    added = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for one in inspect.signature(_options, eval_str=True).parameters.values()
        if one.name not in own
    ]

    @functools.wraps(command)
    def run(*arguments: Any, **given: Any) -> None:
        said = {one.name: given.pop(one.name) for one in added if one.name in given}
        for name in LISTS:
            said[name] = tuple(said.get(name) or ())
        if "label_column" in own:  # it finds its labels itself
            said["label_column"] = "no"
        command(*arguments, **given, how=ReadOptions(**said))

    parameters = [*own.values(), *added]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


class Announcer:
    """Says on standard error how files were understood: two lines a file, and none for what is as before."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._begun: set[int] = set()

    def __call__(self, reader: Reader) -> None:
        """Say how a file is understood; the second time, what was met while it was read."""
        if id(reader) not in self._begun:
            self._begun.add(id(reader))
            said = f"{reader.layout.read_as()}\n  {reader.layout.holds()}"
            if said not in self._said:
                self._said.add(said)
                warn(f"{reader.path.name}: {said}")
            return
        self._begun.discard(id(reader))
        for remark in reader.remarks():
            warn(f"{reader.path.name}: {remark}")
