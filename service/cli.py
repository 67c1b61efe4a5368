"""The command gatewatch, joined of its commands."""

from __future__ import annotations

import io
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer

from gatewatch.models.errors import GatewatchError
from gatewatch.service.cli_support.terminal import INTERRUPTED, warn, warn_in_one_line
from gatewatch.service.commands.capacity import capacity
from gatewatch.service.commands.compare import compare
from gatewatch.service.commands.demo import demo
from gatewatch.service.commands.doctor import doctor
from gatewatch.service.commands.evaluate import evaluate
from gatewatch.service.commands.incidents import app as incidents
from gatewatch.service.commands.inspect import inspect
from gatewatch.service.commands.keys import keys
from gatewatch.service.commands.models import app as models
from gatewatch.service.commands.plot import plot
from gatewatch.service.commands.policies import app as policies
from gatewatch.service.commands.prove import prove, verify
from gatewatch.service.commands.replay import replay
from gatewatch.service.commands.scan import scan_files
from gatewatch.service.commands.serve import serve
from gatewatch.service.commands.sign import sign
from gatewatch.service.commands.streams import app as streams
from gatewatch.service.commands.train import train
from gatewatch.service.commands.watch import watch
from gatewatch.service.commands.windows import app as windows

BAD_INPUT = 2

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


app.command()(inspect)
app.command("scan")(scan_files)
app.command()(plot)
app.command()(train)
app.command()(evaluate)
app.command()(compare)
app.add_typer(models, name="models")
app.add_typer(incidents, name="incidents")
app.add_typer(policies, name="policies")
app.add_typer(windows, name="windows")
app.command()(sign)
app.command()(serve)
app.add_typer(keys, name="keys")
app.command()(replay)
app.add_typer(streams, name="streams")
app.command()(watch)
app.command()(prove)
app.command()(verify)
app.command()(doctor)
app.command()(demo)
app.command()(capacity)


def main() -> None:
    """Run the command; what a user can mend becomes one line on standard error and exit status 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal cannot show is no reason to end
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = app(standalone_mode=False)
    except GatewatchError as error:
        warn_in_one_line(f"gatewatch: {error}")
        sys.exit(BAD_INPUT)
    except typer.Abort:
        warn("Stopped.")
        sys.exit(INTERRUPTED)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        sys.exit(_misused(error))
    if status == INTERRUPTED:
        warn("Stopped; nothing of it is kept.")
    sys.exit(status if isinstance(status, int) else 0)


def _misused(error: Any) -> int:
    """Say in one line what was wrong with the options, and where the help is; the status to end with."""
    context = getattr(error, "ctx", None)
    if context is not None and type(error).__name__.startswith("NoArgs"):
        context.get_help()  # prints it
        return BAD_INPUT
    said = str(error.format_message()).strip()
    path = context.command_path if context is not None else "gatewatch"
    near = f"; see {path} --help" if context is not None else ""
    warn_in_one_line(f"gatewatch: {said.rstrip('.')}{near}")
    return int(getattr(error, "exit_code", BAD_INPUT))
