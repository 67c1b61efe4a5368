"""Verifying: a proof's verdicts computed anew from its state, its readings and the model; without a service.

What must be equal: the chain tag and the verdict of every reading, and what the incident says of them. To the bit where
numpy, ONNX Runtime and the machine are the same; else within contract 2: scores, expectations and shares within 1e-5 of
their size, and no other verdict but within 1e-4 of the threshold.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from gatewatch.models.artefact.files import Artefact, GeneralManifest
from gatewatch.models.detectors.asked import of_words
from gatewatch.models.detectors.canary import EDGE, SCORE_TOLERANCE
from gatewatch.models.detectors.detector import Detector
from gatewatch.models.detectors.general.detector import GeneralDetector
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.errors import ArtefactError
from gatewatch.service.core.history import Entries
from gatewatch.service.core.records import CORRECTED, Records, encoded_layouts, fixed_bytes, sound
from gatewatch.service.core.stepper import Stepper
from gatewatch.service.incidents.began import versions
from gatewatch.service.incidents.incident import Incident, advance
from gatewatch.service.proofs.file import DamagedProof, ProofFile
from gatewatch.service.proofs.packing import FORMAT, as_json, from_json

NEEDED_SLOTS = 32
"""Of a history, which is not written here."""


@dataclass(frozen=True)
class Difference:
    """What is not as the proof says.

    Attributes:
        where: a reading's number, or the incident.
        field: of it; of one with a value for each channel, with the channel.
        packed, computed: what the proof says, and what was found.
    """

    where: str
    field: str
    packed: Any
    computed: Any

    def __str__(self) -> str:
        return f"{self.where}: {self.field} is {self.packed} in the proof; computed anew it is {self.computed}"


@dataclass(frozen=True)
class Verdict:
    """What verifying came to.

    Attributes:
        readings: how many were scored anew.
        first, last: the numbers of the first and the last of them.
        to_the_bit: nothing differs at all.
        largest: the largest difference, in units of contract 2's bound; 0 where nothing differs.
        difference: the first one that contract 2 does not allow; None where the proof holds.
        whole: the readings reach to the incident's last anomalous one.
        other_versions: name to what it was computed on and what it was verified on, where they differ.
    """

    readings: int
    first: int
    last: int
    to_the_bit: bool
    largest: float
    difference: Difference | None
    whole: bool
    other_versions: dict[str, tuple[str, str]]


def verify(file: ProofFile, artefact: Artefact) -> Verdict:
    """Compute a proof anew.

    Raises:
        ArtefactError: the artefact is another model's, or cannot be run.
        DamagedProof: the file is sealed, and does not fit together.
    """
    proof = file.proof
    if proof.get("format") != FORMAT:
        raise DamagedProof(f"it has format {proof.get('format')!r:.20}; this gatewatch reads {FORMAT}: upgrade it")
    try:
        detector = _detector(proof, artefact)
        stepper = Stepper(detector, NEEDED_SLOTS)
        record = _record(file.state, stepper)
        given = from_json(file.readings, len(detector.channels))
        incident = msgspec.convert(proof["incident"], Incident)
        asked = of_words(proof["asked"])
        ran_on = {str(name): str(value) for name, value in proof["versions"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, msgspec.ValidationError) as error:
        raise DamagedProof(f"the proof does not fit together: {error!r:.120}") from error
    if not len(given):
        raise DamagedProof("it has no reading")
    before = record.copy()
    (computed,) = stepper.replay(record, [given], asked=asked)
    computed["status"] |= given["status"] & CORRECTED
    largest, first = 0.0, _of_state(file.state, before)
    for difference, size in _differences(given, computed, detector.channels):
        largest = max(largest, size)
        if size > 1.0 and first is None:
            first = difference
    first = first or _of_incident(incident, before, given, detector)
    now = versions()
    return Verdict(
        len(given),
        int(given["n"][0]),
        int(given["n"][-1]),
        largest == 0.0 and first is None,
        largest,
        first,
        _reaches(incident, given),
        {name: (was, now.get(name, "")) for name, was in ran_on.items() if now.get(name, "") != was},
    )


def _detector(proof: dict[str, Any], artefact: Artefact) -> Detector:
    said, found = str(proof["model"]["manifest_sha256"]), artefact.manifest.manifest_sha256
    if found != said or artefact.digest.hex() != proof["model"]["digest"]:
        raise ArtefactError(f"this is the model {found[:16]}…; the incident was found by {said[:16]}…")
    if isinstance(artefact.manifest, GeneralManifest):
        return GeneralDetector(artefact, proof["channels"], float(proof["model"]["alerts_per_week"]))
    detector = TrainedDetector(artefact)
    if list(detector.channels) != proof["channels"]:
        raise ValueError("its channels are not the model's")
    return detector


def _record(state: dict[str, Any], stepper: Stepper) -> Records:
    """(1,) the state to begin with. Raises ValueError, or ArtefactError where a version before `shape` wrote it."""
    try:
        packed = base64.b64decode(state["record"], validate=True)
    except binascii.Error as error:
        raise ValueError(f"the state is no base64: {error}") from error
    size = fixed_bytes(stepper.record)
    detector = stepper.detector
    if isinstance(detector, GeneralDetector):
        before = detector.dtype_without_shape(len(detector.channels)).itemsize - detector.state_dtype.itemsize
        if len(packed) == size + before:
            raise ArtefactError("the proof is of a version whose general model knew no shapes: verify it with that one")
    if len(packed) < size or any(encoded_layouts([packed + bytes(4)], size)):
        raise ValueError(f"the state has {len(packed)} bytes; of this model it has {size}")
    return sound([packed], stepper.record)


def _of_state(state: dict[str, Any], record: Records) -> Difference | None:
    """What is said of the state beside it."""
    own = {"readings": int(record["readings"][0]), "tag": bytes(record["tag"][0]).hex()}
    return next(
        (Difference("state", name, state.get(name), own[name]) for name in own if state.get(name) != own[name]), None
    )


def _differences(given: Entries, computed: Entries, channels: Sequence[str]) -> Iterator[tuple[Difference, float]]:
    """Whatever differs, in the order of the readings, and how much of what contract 2 allows; infinite for words."""
    texts, own = as_json(given), as_json(computed)
    bounds = {name: _bounds(given, computed, name) for name in ("score", "mid", "half", "attribution")}
    for at, (text, now) in enumerate(zip(texts, own, strict=True)):
        where = f"reading {text['n']}"
        near = abs(text["score"] - 1.0) <= EDGE and text["score"] != now["score"]  # of one score follows one verdict
        for name in ("n", "tag"):
            if text[name] != now[name]:
                yield Difference(where, name, text[name], now[name]), np.inf
        for name, bound in bounds.items():
            sizes = np.atleast_1d(bound[at])
            for place in np.flatnonzero(sizes).tolist():
                one, other = text[name], now[name]
                if isinstance(one, list):
                    yield Difference(where, f"{name} of {channels[place]}", one[place], other[place]), sizes[place]
                else:
                    yield Difference(where, name, one, other), sizes[place]
        for name in ("status", "alert", "open", "reason"):
            if text[name] != now[name]:
                yield Difference(where, name, text[name], now[name]), 0.5 if near else np.inf


def _bounds(given: Entries, computed: Entries, name: str) -> NDArray[np.float64]:
    """How far a field is off, in what contract 2 allows: 0 where the bits are equal, infinite where one is no number.

    Scores and shares are measured by themselves, expectations by their band, so that no unit and no offset counts.
    """
    one, other = given[name].astype(np.float64), computed[name].astype(np.float64)
    other = np.where(np.isfinite(other), other, np.nan)  # both are null in the file
    if name in ("score", "attribution"):
        size = np.maximum(np.abs(one), 1.0)
    else:
        half = given["half"].astype(np.float64)
        size = np.where(half > 0, half, np.maximum(np.abs(given["mid"]), np.finfo(np.float64).tiny))
    same = (one == other) & (np.signbit(one) == np.signbit(other)) | (np.isnan(one) & np.isnan(other))
    off = np.abs(one - other) / (SCORE_TOLERANCE * size)
    return np.where(same, 0.0, np.where(np.isfinite(off), np.maximum(off, np.finfo(np.float64).tiny), np.inf))


def _of_incident(incident: Incident, before: Records, given: Entries, detector: Detector) -> Difference | None:
    """What the incident says that its readings do not, as far as they reach.

    A correction scores readings anew, and leaves the incident as it was found: then only its beginning is compared. So
    it is of one that began by the rules of a policy.
    """
    if incident.ruled:  # what rules were asked then, the readings do not say
        begun = given[given["n"] == incident.n]
        said = int(begun["timestamp_ms"][0]) if len(begun) else None
        return None if said == incident.start_ms else Difference("incident", "start_ms", incident.start_ms, said)
    was_open = bool(detector.is_open(before["detector"])[0])
    until = given[given["n"] < incident.n + incident.judged]
    found = {one.n: one for one in advance(None, incident.stream, until, detector.channels, was_open).incidents}
    own = found.get(incident.n)
    if own is None:
        return Difference("incident", "n", incident.n, "no reading with which an incident begins")
    names = ["start_ms"]
    if _reaches(incident, given) and not (until["status"] & CORRECTED).any():
        names += [
            "last_ms",
            "anomalous",
            "judged",
            "peak_ms",
            "peak_score",
            "last_score",
            "reason",
            "channels",
            "alerts",
        ]
    pairs = ((name, getattr(incident, name), getattr(own, name)) for name in names)
    return next((Difference("incident", name, said, is_) for name, said, is_ in pairs if said != is_), None)


def _reaches(incident: Incident, entries: Entries) -> bool:
    """Whether readings go on to the incident's last anomalous one."""
    return int(entries["n"][-1]) >= incident.n + incident.judged - 1
