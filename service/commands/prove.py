"""gatewatch prove, gatewatch verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from gatewatch.models.artefact.files import SHIPPED_AS, Artefact, load_artefact, model_folder
from gatewatch.models.errors import ArtefactError, GatewatchError
from gatewatch.service.cli_support.terminal import tell

if TYPE_CHECKING:
    from gatewatch.service.proofs.file import ProofFile

DIFFERS = 1


def prove(
    incident: Annotated[str, typer.Argument(help="its id, as /v1/incidents lists it")],
    out: Annotated[Path, typer.Option(help="file to write")],
    model: Annotated[
        str | None,
        typer.Option(help="folder of the model that found it, to be put into the file; or `general`, `demo`"),
    ] = None,
    url: Annotated[str, typer.Option(help="the service")] = "http://127.0.0.1:8000",
) -> None:
    """Write what an incident's verdicts follow from, for `gatewatch verify` on any machine."""
    from gatewatch.service.client.remote import answered, connected
    from gatewatch.service.proofs import file

    with connected(url) as client:
        answer = answered(client, "GET", f"/v1/incidents/{quote(incident, safe='')}/proof")
    file.write(out, answer, None if model is None else model_folder(model))
    readings, sha256 = answer["readings"], answer["proof"]["model"]["manifest_sha256"]
    tell(f"{out}: incident {incident}, readings {readings[0]['n']} to {readings[-1]['n']}, {out.stat().st_size} bytes")
    if model is None and _shipped(sha256) is None:
        tell(f"It does not carry the model {sha256[:16]}: give its folder to verify, or to prove, with --model.")


def verify(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="what `gatewatch prove` wrote")],
    model: Annotated[
        str | None, typer.Option(help="folder of the model, where the file does not carry it and it is not shipped")
    ] = None,
) -> None:
    """Compute the verdicts of a proof anew; says equal, or where it differs, and then ends with status 1."""
    from gatewatch.service.proofs import file, verifying

    proved = file.read(path)
    verdict = verifying.verify(proved, _model(proved, model))
    incident = proved.proof["incident"]
    tell(f"{path}: incident {incident['n']}.{incident['stream']}, readings {verdict.first} to {verdict.last}")
    for name, (was, now) in verdict.other_versions.items():
        tell(f"computed with {name} {was}, verified with {now}")
    if not verdict.whole:
        tell("The incident goes on behind these readings: what comes later is not in the file, and not proved.")
    if verdict.difference is not None:
        tell(f"DIFFERS at {verdict.difference}")
        if proved.proof["asked"] != proved.proof["asked_now"]:
            tell("What is asked of the stream has changed since: later verdicts do not follow from the beginning.")
        raise typer.Exit(DIFFERS)
    if verdict.to_the_bit:
        tell(
            f"EQUAL to the bit: chain tags and verdicts of {verdict.readings} readings follow from the state and model."
        )
    else:
        tell(
            f"EQUAL within contract 2: chain tags of {verdict.readings} readings to the bit, numbers within "
            f"{verdict.largest:.2g} of what is allowed (1e-5)."
        )


def _model(proved: ProofFile, given: str | None) -> Artefact:
    """The model that a proof needs, from a folder, the file, or those that are shipped."""
    if given is not None:
        return load_artefact(model_folder(given))
    if proved.artefact is not None:
        return proved.artefact
    try:
        sha256 = str(proved.proof["model"]["manifest_sha256"])
    except (KeyError, TypeError) as error:
        raise GatewatchError(f"the proof names no model: {error!r:.80}") from error
    shipped = _shipped(sha256)
    if shipped is None:
        raise ArtefactError(f"the file does not carry the model {sha256[:16]}…: give its folder with --model")
    return shipped


def _shipped(sha256: str) -> Artefact | None:
    """The shipped model with this manifest."""
    shipped = (load_artefact(model_folder(name)) for name in SHIPPED_AS)
    return next((artefact for artefact in shipped if artefact.manifest.manifest_sha256 == sha256), None)
