"""The command gatewatch: serve, train, scan, evaluate, compare, replay, demo."""

from __future__ import annotations

import io
import sys

import typer

from models.errors import GatewatchError
from service.commands.compare import compare
from service.commands.demo import demo
from service.commands.evaluate import evaluate
from service.commands.replay import replay
from service.commands.scan import scan_files
from service.commands.serve import serve
from service.commands.terminal import warn_in_one_line
from service.commands.train import train

BAD_INPUT = 2

app = typer.Typer(
    help="Gatewatch: an anomaly score for every reading of every sensor stream.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(serve)
app.command()(train)
app.command("scan")(scan_files)
app.command()(evaluate)
app.command()(compare)
app.command()(replay)
app.command()(demo)


def main() -> None:
    """Run the command; what a user can mend becomes one line on standard error and exit status 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal cannot show is no reason to end
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except GatewatchError as error:
        warn_in_one_line(f"gatewatch: {error}")
        sys.exit(BAD_INPUT)


if __name__ == "__main__":
    main()
