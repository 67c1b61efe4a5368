"""What gatewatch says of fixed recordings and fixed requests, beside what it said when golden.json was written.

    python -m tests.golden            compare, and name every place that differs
    python -m tests.golden --write    write golden.json anew, where scores or words were meant to change

Two parts, each by both shipped models: a scan of the demo's recordings, and some 5,000 readings posted to a running
service. Words, statuses, alerts and chain tags are compared exactly. Floats are compared by a hash of their bits where
this machine computes as the one that wrote the file; elsewhere sums and maxima of them are, to DIGITS digits.
"""

from __future__ import annotations

import hashlib
import json
import platform
import tempfile
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from numpy.typing import NDArray

from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors.detector import STATUSES
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.models.scan import Scan, scan_together
from gatewatch.service.demo.station import CHANNELS, DAY_MINUTES, RECORDINGS_START_MS, demo_faults, simulate
from tests.golden.traffic import requests
from tests.support.whole_path import serving

FILE = Path(__file__).with_name("golden.json")
DIGITS = 4
MODELS: dict[str, tuple[str, ...]] = {"demo": (), "general": CHANNELS}
"""The names of the shipped models, and the channels that they are told to watch."""

BLOCK_ROWS = 120
Entry = dict[str, Any]
"""Of one block of rows, or of one request: hashes of its words (`exact`) and of the `bits` of its floats; sums and the
maximum of these (`floats`); its alerts or statuses."""


def machine() -> str:
    """What decides about the last bits of floats."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    name, flags = (next((line for line in lines if line.startswith(what)), "") for what in ("model name", "flags"))
    libraries = [f"{library} {version(library)}" for library in ("numpy", "onnxruntime")]
    return ", ".join([platform.machine(), name.partition(":")[2].strip(), _hash(flags.encode()), *libraries])


def scans() -> Iterator[tuple[str, Entry]]:
    """The demo's three days with their faults, scanned by both models: a block of rows at a time."""
    recordings = simulate(RECORDINGS_START_MS, 3 * DAY_MINUTES, seed=7, faults=demo_faults(RECORDINGS_START_MS))
    for model, channels in MODELS.items():
        for found in scan_together(load_detector(model_folder(model), channels), recordings):
            for start in range(0, len(found.recording), BLOCK_ROWS):
                rows = slice(start, start + BLOCK_ROWS)
                yield f"scan {model} {found.recording.stream} rows {start}+", _block(found, rows)


def _block(found: Scan, rows: slice) -> Entry:
    words = [[STATUSES[status] for status in found.status[rows]], found.reason[rows].tolist()]
    alerts = [rows.start + int(row) for row in np.flatnonzero(found.alert[rows])]
    columns = (found.score, found.attribution, found.expected, found.residual)
    return {
        "exact": _hash(json.dumps(words).encode()),
        "alerts": alerts,
        "bits": _hash(b"".join(np.ascontiguousarray(column[rows]).tobytes() for column in columns)),
        "floats": _figures(found.score[rows], found.expected[rows]),
    }


def replies() -> Iterator[tuple[str, Entry]]:
    """Replies of a running service to mixed traffic, in turn, and what it says of every stream in the end."""
    for model, channels in MODELS.items():
        watched = {"GATEWATCH_CHANNELS": ",".join(channels)} if channels else {}
        with (
            tempfile.TemporaryDirectory() as folder,
            serving(Path(model), Path(folder, "data"), GATEWATCH_STORE_TIMEOUT_MS="10000", **watched) as (url, _),
            httpx2.Client(base_url=url, timeout=60, trust_env=False) as client,
        ):
            for number, request in enumerate(requests()):
                reply = client.request(request.method, request.path, content=request.body, headers=request.headers)
                yield f"reply {model} {number} {request.what}", _reply(reply)


def _reply(reply: httpx2.Response) -> Entry:
    media = reply.headers["content-type"]
    parts = [json.loads(line) for line in reply.text.splitlines()] if "ndjson" in media else json.loads(reply.text)
    floats: list[float] = []
    words = json.dumps([reply.status_code, media, _without_floats(parts, floats)])
    results = parts if isinstance(parts, list) else [parts]
    scores = [result["score"] for result in results if result.get("score") is not None]
    return {
        "exact": _hash(words.encode()),
        "statuses": Counter(str(result.get("status")) for result in results),
        "bits": _hash(np.array(floats).tobytes()),
        "floats": _figures(np.array(scores), np.array(floats)),
    }


def _without_floats(part: Any, floats: list[float]) -> Any:
    """A JSON value with "float" for every float, and the floats in their order; keys stay as they stand."""
    if isinstance(part, dict):
        return {key: _without_floats(value, floats) for key, value in part.items()}
    if isinstance(part, list):
        return [_without_floats(value, floats) for value in part]
    if isinstance(part, float):
        floats.append(part)
        return "float"
    return part


def _figures(scores: NDArray[Any], others: NDArray[Any]) -> list[float]:
    """Sum and largest of the scores, sum of the others' sizes: to DIGITS digits, and 0 where there is none."""
    scores, sizes = np.append(0.0, scores), np.abs(np.append(0.0, others))
    return [float(f"{number:.{DIGITS}g}") for number in (scores.sum(), scores.max(), np.nansum(sizes))]


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=6).hexdigest()


def write() -> int:
    """Write the file anew; how many entries it has."""
    entries = dict([*scans(), *replies()])
    lines = [json.dumps({"machine": machine()})]
    lines += [json.dumps({"at": at, **entry}, separators=(",", ":")) for at, entry in entries.items()]
    FILE.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    return len(entries)


def differences(found: Iterator[tuple[str, Entry]], kind: str) -> list[str]:
    """What differs from the file, a line each; of the entries whose place begins with `kind`."""
    first, *listed = json.loads(FILE.read_text())
    expected = {entry.pop("at"): entry for entry in listed}
    same_machine = first["machine"] == machine()
    lines, seen = [], set()
    for at, entry in found:
        seen.add(at)
        if at not in expected:
            lines.append(f"{at}: is not in the file")
            continue
        then = expected[at]
        strict = then.keys() - {"floats", *(() if same_machine else ("bits",))}
        lines += [f"{at}: {what} {entry[what]}, not {then[what]}" for what in strict if entry[what] != then[what]]
        if not np.allclose(entry["floats"], then["floats"], rtol=2 * 10.0 ** (1 - DIGITS), atol=10.0**-DIGITS):
            lines.append(f"{at}: {entry['floats']}, not {then['floats']}")
    lines += [f"{at}: is in the file only" for at in expected if at.startswith(kind) and at not in seen]
    return lines
