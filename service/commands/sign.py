"""gatewatch sign."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gatewatch.service.cli_support.terminal import tell


def sign(
    folder: Annotated[Path, typer.Argument(help="the artefact's folder")],
    key: Annotated[Path, typer.Option(help="private key in PEM, as `openssl genpkey -algorithm ed25519` makes it")],
) -> None:
    """Sign an artefact, so that a service with GATEWATCH_TRUSTED_KEYS takes it."""
    from gatewatch.models.artefact import signatures

    tell(f"signed by {signatures.sign(folder, key)}")
