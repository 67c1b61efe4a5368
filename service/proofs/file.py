"""A proof as a file: one JSON object a line, the last one a seal that names each line before it with its SHA-256.

    proof        what is proved: the incident, the model's hashes and settings, the channels, what it was computed on
    state        the stream's record before the first reading
    reading N    each reading with its verdict
    manifest     of the artefact, and its graph, where the file carries the model
    graph
    seal

A byte that is changed anywhere is found, and the line that it is in named. The seal is no signature: who changes a line
can seal it anew. What the lines say of each other is computed anew by verifying.py.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatewatch.models.artefact.files import GRAPH, MANIFEST, Artefact, parse_manifest, read_file
from gatewatch.models.errors import ArtefactError, GatewatchError

LARGEST_PROOF = 512 * 2**20
SEAL = "seal"


class DamagedProof(GatewatchError):
    """A file that is no proof, or no longer whole."""


@dataclass(frozen=True)
class ProofFile:
    """What a file holds.

    Attributes:
        proof, state, readings: as the service answered them, see packing.py.
        artefact: the model; None where the file does not carry it.
    """

    proof: dict[str, Any]
    state: dict[str, Any]
    readings: list[dict[str, Any]]
    artefact: Artefact | None


def write(path: Path, answer: dict[str, Any], model: Path | None) -> None:
    """Write what a service answered, with the model's manifest and graph from a folder, if one is given.

    Raises:
        GatewatchError: the answer is none, the folder's model is another one, or the file cannot be written.
    """
    try:
        said = str(answer["proof"]["model"]["manifest_sha256"])
        parts = [("proof", answer["proof"]), ("state", answer["state"])]
        parts += [(f"reading {reading['n']}", reading) for reading in answer["readings"]]
    except (KeyError, TypeError) as error:
        raise GatewatchError(f"the service answered no proof: {error!r:.80}") from error
    if model is not None:
        manifest, graph = read_file(model / MANIFEST), read_file(model / GRAPH)
        found = artefact_of(manifest, graph, f"{model}: ").manifest.manifest_sha256
        if found != said:
            raise ArtefactError(f"{model}: its SHA-256 is {found[:12]}…; the incident was found by {said[:12]}…")
        parts += [("manifest", json.loads(manifest)), ("graph", base64.b64encode(graph).decode())]
    lines = [_line(content) for _, content in parts]
    seal = [[name, hashlib.sha256(line).hexdigest()] for (name, _), line in zip(parts, lines, strict=True)]
    whole = b"".join(line + b"\n" for line in (*lines, _line(_sealed(seal))))
    try:
        path.write_bytes(whole)
    except OSError as error:
        raise GatewatchError(f"{path}: cannot be written ({error.strerror})") from error


def read(path: Path) -> ProofFile:
    """What a file holds, once every byte of it is what was sealed. Raises DamagedProof, or ArtefactError."""
    whole = read_file(path, LARGEST_PROOF)
    *lines, last = whole.removesuffix(b"\n").split(b"\n")
    if not whole.endswith(b"\n") or not lines:
        raise DamagedProof(f"{path}: it has no seal: it is cut off, or its last byte was changed, or it is no proof")
    names = []
    for number, (name, sha256) in enumerate(_seal_in(path, last)):
        if number == len(lines) or hashlib.sha256(lines[number]).hexdigest() != sha256:
            raise DamagedProof(f"{path}: line {number + 1} ({name}) is not what was sealed: it was changed")
        names.append(name)
    if len(lines) > len(names):
        raise DamagedProof(f"{path}: line {len(names) + 1} was put in after the file was sealed")
    try:
        found = [json.loads(line) for line in lines]
        of = dict(zip(names, found, strict=True))
        readings = [content for name, content in zip(names, found, strict=True) if name.startswith("reading ")]
        artefact = None
        if "graph" in of:
            graph = base64.b64decode(of["graph"], validate=True)
            artefact = artefact_of(lines[names.index("manifest")], graph, f"{path}: ")
        return ProofFile(of["proof"], of["state"], readings, artefact)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedProof(f"{path}: it is sealed, and no proof: {error!r:.80}") from error


def artefact_of(manifest: bytes, graph: bytes, place: str) -> Artefact:
    """A model from the two files that scoring needs. Raises ArtefactError."""
    parsed, digest = parse_manifest(manifest, f"{place}{MANIFEST}")
    found = hashlib.sha256(graph).hexdigest()
    if found != parsed.files.get(GRAPH):
        said = str(parsed.files.get(GRAPH))
        raise ArtefactError(f"{place}{GRAPH}: SHA-256 is {found[:12]}…, the manifest says {said[:12]}…")
    return Artefact(parsed, graph, digest)


def _sealed(seal: Sequence[Sequence[str]]) -> dict[str, Any]:
    return {SEAL: seal, "sha256": hashlib.sha256(_line(seal)).hexdigest()}


def _seal_in(path: Path, last: bytes) -> list[tuple[str, str]]:
    """Names and hashes of the lines."""
    try:
        seal = [(str(name), str(sha256)) for name, sha256 in json.loads(last)[SEAL]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedProof(f"{path}: the last line is no seal: it was changed, or the file is no proof") from error
    if _line(_sealed(seal)) != last:
        raise DamagedProof(f"{path}: the seal, in the last line, was changed")
    return seal


def _line(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
