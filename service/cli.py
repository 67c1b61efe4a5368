"""The command gatewatch: serve, keys, train, models, scan, evaluate, compare, sign, replay, demo, capacity."""

from __future__ import annotations

import io
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from gatewatch.models.errors import GatewatchError
from gatewatch.service.cli_support.terminal import warn_in_one_line
from gatewatch.service.commands.capacity import capacity
from gatewatch.service.commands.compare import compare
from gatewatch.service.commands.demo import demo
from gatewatch.service.commands.evaluate import evaluate
from gatewatch.service.commands.keys import keys
from gatewatch.service.commands.models import app as models
from gatewatch.service.commands.replay import replay
from gatewatch.service.commands.scan import scan_files
from gatewatch.service.commands.serve import serve
from gatewatch.service.commands.sign import sign
from gatewatch.service.commands.train import train

BAD_INPUT = 2

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(version("gatewatch"))
        raise typer.Exit


@app.callback()
def gatewatch(
    _: Annotated[
        bool, typer.Option("--version", help="print the version and end", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Gatewatch: an anomaly score for every reading of every sensor stream."""


app.command()(serve)
app.command()(train)
app.add_typer(models, name="models")
app.command("scan")(scan_files)
app.command()(evaluate)
app.command()(compare)
app.command()(sign)
app.command()(replay)
app.add_typer(keys, name="keys")
app.command()(demo)
app.command()(capacity)


def main() -> None:
    """Run the command; what a user can mend becomes one line on standard error and exit status 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal cannot show is no reason to end
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except GatewatchError as error:
        warn_in_one_line(f"gatewatch: {error}")
        sys.exit(BAD_INPUT)
