"""Content that was harmed and sealed anew, as a later version or a hostile hand does it: no error but ours.

The long form: MUTANTS=100000 MUTANTS_SEED=1 python -m pytest -s tests/faults/test_hostile_content.py -n 0
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from gatewatch.models.artefact.files import CARD, GRAPH, MANIFEST, WEIGHTS, artefact_from, manifest_hash
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.errors import ArtefactError
from gatewatch.service.core import records as state
from gatewatch.service.core.layout import of_ring
from tests.faults.test_harm import LAYOUT, MUTANTS, SEED, SLOTS, STREAM, harmed
from tests.faults.test_harm import records as records

VALUES: list[Any] = [
    None, True, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 1e308, 5e-324, "", "x", "\0", "a\nb", "x" * 5000,
    [], [[]], {}, {"": []},
]  # fmt: skip
"""In place of what a manifest says."""


def sealed(body: bytes) -> bytes:
    """A record's bytes with the right checksum."""
    return body + zlib.crc32(body, STREAM).to_bytes(4, "little")


def edited(content: Any, rng: random.Random) -> Any:
    """A manifest with one value, somewhere, exchanged, left out or doubled."""
    content = json.loads(json.dumps(content))
    place, key = content, rng.choice(sorted(content))
    while isinstance(place[key], dict | list) and place[key] and rng.random() < 0.8:
        place = place[key]
        key = rng.choice(sorted(place)) if isinstance(place, dict) else rng.randrange(len(place))
    way = rng.randrange(4)
    if way == 0:
        del place[key]
    elif way == 1 and isinstance(place, list):
        place.append(place[key])
    elif way == 2 and isinstance(place[key], int | float):
        place[key] = place[key] * rng.choice((-1, 0, 2, 1e9, 1e300, 1e-300))
    else:
        place[key] = rng.choice(VALUES)
    return content


def test_no_record_that_is_sealed_anew_raises(detector: TrainedDetector, records: list[bytes]) -> None:
    rng, dtype = random.Random(SEED), state.state_dtype(detector.state_dtype, len(detector.channels))
    bodies, found = [record[:-4] for record in records], Counter[str]()
    for _ in range(MUTANTS // 10):
        body = harmed(bodies, rng)
        if rng.random() < 0.5:  # its head as it was, so that more of it is looked at
            body = bodies[0][: state.STREAM_PART.itemsize] + body[state.STREAM_PART.itemsize :]
        _, _, flaws = state.unpack([sealed(body)], [STREAM], dtype, LAYOUT, detector.digest, SLOTS)
        state.stream_part(sealed(body), STREAM)
        found[flaws.get(0, "none")] += 1
    print(f"MUTANTS_SEED={SEED}: {found.total()} records sealed anew, flaws {dict(found)}")
    assert len(found) > 3


def test_no_list_of_channels_that_is_sealed_anew_raises() -> None:
    rng, names = random.Random(SEED), msgspec.msgpack.encode(["pressure", "flow"])
    found = Counter[bool]()
    for _ in range(MUTANTS // 10):
        value = harmed([names, msgspec.msgpack.encode({"channels": 1})], rng)
        found[of_ring(len(value).to_bytes(4, "little") + value + zlib.crc32(value).to_bytes(4, "little")) is None] += 1
    print(f"MUTANTS_SEED={SEED}: {found.total()} lists of channels, {found[False]} readable")
    assert len(found) == 2


def test_no_artefact_that_is_sealed_anew_is_more_than_an_error_of_ours(artefact: Path) -> None:
    """Graph, weights, card and manifest, with hashes that fit; one that loads must step."""
    rng, found, lines = random.Random(SEED), Counter[str](), set[str]()
    files = {name: (artefact / name).read_bytes() for name in (GRAPH, WEIGHTS, CARD, MANIFEST)}
    before = json.loads(files[MANIFEST])
    for number in range(MUTANTS // 100):
        mutant = dict(files)
        name = (GRAPH, MANIFEST, GRAPH, MANIFEST, WEIGHTS, CARD)[number % 6]
        manifest = before
        if name == MANIFEST:
            for _ in range(rng.randint(1, 3)):
                with contextlib.suppress(IndexError, KeyError):
                    manifest = edited(manifest, rng)
        else:
            mutant[name] = harmed([files[name]], rng)
        if isinstance(manifest.get("files"), dict):
            hashes = {of: hashlib.sha256(mutant[of]).hexdigest() for of in (GRAPH, WEIGHTS, CARD)}
            manifest = {**manifest, "files": {**manifest["files"], **hashes}}
        manifest = {**manifest, "manifest_sha256": manifest_hash(manifest)}
        mutant[MANIFEST] = json.dumps(manifest).encode()
        try:
            made = TrainedDetector(artefact_from(lambda of, _: mutant[of], "mutant/"))  # noqa: B023
            made.require_live()
        except ArtefactError as error:
            found[f"{name} refused"] += 1
            lines.update(str(error).splitlines()[1:])
        else:
            found[f"{name} loaded"] += 1
    print(f"MUTANTS_SEED={SEED}: {found.total()} artefacts sealed anew, {dict(found)}")
    assert found[f"{GRAPH} refused"] > found.total() / 10
    assert not lines, f"errors of more than one line: {lines}"
