"""A trained detector on disk: manifest, one-step graph, weights and model card; save, load, verify.

    model.onnx            the network's step, state in and state out
    weights.safetensors   the same parameters by name, for further training and for reading
    manifest.json         everything the service needs to know, the SHA-256 of the files beside it, and its own
    MODEL_CARD.md         the same for people
    canary.json           readings and the scores this model gives them, see models/detectors/canary.py; may be absent

Nothing in it is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, get_args

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from gatewatch.models.errors import ArtefactError

FORMAT_VERSION = 4
Format = Literal[3, 4]
READ_VERSIONS = get_args(Format)
"""What is written, and what is read: 3 keeps no tails."""

GRAPH, WEIGHTS, MANIFEST, CARD = "model.onnx", "weights.safetensors", "manifest.json", "MODEL_CARD.md"
CANARY = "canary.json"
LARGEST_FILE = 256 * 2**20
LARGEST_MANIFEST = 32 * 2**20
MOST_CHANNELS = 4096
LONGEST_NAME = 256
MOST_LEVELS = 1000
LARGEST_STATE = 2**20
"""Bytes that a stream may have to carry."""
SHIPPED = Path(__file__).parent.parent / "shipped"
SHIPPED_AS = {"general": "general", "demo": "pump-station"}
"""Names that stand for the folder of a shipped artefact."""


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} is not finite")
    if value and not SMALLEST <= abs(value) <= LARGEST:
        raise ValueError(f"{value} is beyond {SMALLEST:g} to {LARGEST:g}")
    return value


SMALLEST, LARGEST = 1e-100, 1e100
"""What no unit goes beyond, and whose squares can still be computed with."""

Finite = Annotated[float, AfterValidator(_finite)]
Positive = Annotated[Finite, Field(gt=0)]
Count = Annotated[int, Field(ge=0, lt=2**31)]
Columns = Annotated[list[Finite], Field(min_length=1, max_length=MOST_LEVELS)]
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]


def _state(shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    names = [name for name in shapes if not STATE_NAME.fullmatch(name) or name in TAKEN_NAMES]
    if names:
        raise ValueError(f"{names[0][:40]!r} is no name of a state tensor")
    if any(size < 1 for shape in shapes.values() for size in shape):
        raise ValueError("a state tensor has no size below 1")
    size = sum(4 * math.prod(shape) for shape in shapes.values())
    if size > LARGEST_STATE or sum(map(len, shapes.values())) > MOST_DIMENSIONS:
        raise ValueError(f"a stream's state has {size} bytes; at most {LARGEST_STATE} are carried")
    return shapes


STATE_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
TAKEN_NAMES = frozenset({"x", "observed", "elapsed", "mean", "scale"})
MOST_DIMENSIONS = 256
State = Annotated[dict[str, list[int]], AfterValidator(_state)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Channel(_Part):
    """One channel, with its place in physical units and what is normal for it."""

    name: Name
    unit: str = Field("", max_length=LONGEST_NAME, description="physical unit, for people")
    center: Finite = Field(description="mean, physical units")
    spread: Positive = Field(description="standard deviation, physical units")
    error_scale: Positive = Field(description="root mean square of the forecast error, standardised units")
    event_scale: Positive = Field(description="a miss of so much counts 1, standardised units")
    usual_miss: Positive = Field(description="mean miss, in event_scale")
    level_scale: Positive = Field(description="a level so far from the center counts 1, standardised units")
    change_scale: Positive = Field(description="a change from one reading to the next that counts 1, physical units")
    usual_lively: Positive = Field(1.0, description="mean change, in change_scale")
    quiet_scale: Positive | None = Field(
        None, description="logarithm by which its mean change seldom falls below that; null: it may rest"
    )
    still_limit: Positive | None = Field(description="readings without a change; null: no limit")
    absent_limit: Positive = Field(description="readings without a value that are still normal")
    constant: bool = Field(False, description="never moved in the recordings, so that its spread is only assumed")


class TailTable(_Part):
    """What normal recordings showed of large scores, level by level; see models.evaluation.threshold."""

    version: Literal[1] = 1
    readings: Count = Field(ge=1, description="of the recordings")
    levels: Columns = Field(description="rising, in the unit of the scores")
    shares: Columns = Field(description="of the readings, above each level")
    incidents: Columns = Field(description="in which these came")
    excess: Columns = Field(description="mean height of their peaks above the level")
    least_scale: Annotated[Finite, Field(ge=0)] = Field(description="a tail is not believed to fall faster")


class Calibration(_Part):
    """The thresholds, the rate of false alarms they were learned for, and how far to trust them."""

    event_mean: Annotated[Finite, Field(ge=0)] = Field(description="mean of the pooled misses")
    event_variance: Positive = Field(description="their variance")
    event_threshold: Positive = Field(description="standard deviations above that mean")
    level_home: Annotated[Finite, Field(ge=0)] = Field(0.0, description="of format 3, and no longer used")
    level_threshold: Positive
    lively_scale: Positive = Field(description="what the pooled changes seldom exceed")
    false_alarm_rate: Positive = Field(description="share of normal readings meant to be judged anomalous")
    confidence: Literal["high", "low"] = Field(
        description="low: too few incidents to read the threshold of events from"
    )
    effective_readings: Positive = Field(description="independent readings that the recordings are worth")
    event_tail: TailTable | None = Field(None, description="from which the threshold for another rate can be read")
    level_tail: TailTable | None = None
    warm_up: Count = Field(description="a stream's first readings: scored, not judged")
    restart_gap_s: Positive = Field(le=1e12, description="a longer gap restarts the network state and the warm-up")
    rebuild_readings: Count = Field(ge=1, description="history that brings a state from nothing to what it was")


class Manifest(_Part):
    """What an artefact says of itself."""

    format_version: Format
    kind: Literal["live", "recording"] = Field("live", description="recording: reads finished ones from both ends")
    architecture: Name
    architecture_settings: dict[str, Any] = Field(description="the trainer's settings of the network")
    state: State = Field(description="shape of each state tensor of a stream, float32")
    channels: list[Channel] = Field(min_length=1, max_length=MOST_CHANNELS)
    interval_s: Positive = Field(ge=1e-9, le=1e12, description="typical time between two readings")
    calibration: Calibration
    training: dict[str, Any] = Field(description="summary of the training: recordings, losses, seconds, seed")
    files: dict[str, str] = Field(description="SHA-256 of each file of the artefact but this one")
    manifest_sha256: str = Field("", description="SHA-256 of this manifest without this field, see manifest_hash")


class GeneralCalibration(_Part):
    """What the general model knows beforehand of any stream: how rare an alarm is to be."""

    alerts_per_week: Positive = Field(description="false alerts that a stream may raise in a week")
    warm_up: Count = Field(description="a stream's first readings: scored, not judged")
    rebuild_readings: Count = Field(ge=1, description="history from which a lost state is begun again")


class GeneralManifest(_Part):
    """What the artefact of the general model says of itself: it has no channels of its own."""

    format_version: Format
    kind: Literal["general"]
    architecture: Name
    architecture_settings: dict[str, Any] = Field(description="the trainer's settings of the network")
    state: State = Field(description="shape of each state tensor of a channel, float32")
    calibration: GeneralCalibration
    training: dict[str, Any] = Field(description="summary of the training: series, steps, losses, seed")
    files: dict[str, str] = Field(description="SHA-256 of each file of the artefact but this one")
    manifest_sha256: str = Field("", description="SHA-256 of this manifest without this field, see manifest_hash")


@dataclass(frozen=True)
class Artefact:
    """A verified artefact in memory.

    Attributes:
        manifest: what it says of itself.
        graph: the ONNX graph of one step.
        digest: 8 bytes that identify it: the beginning of `manifest_hash`, which covers all files.
        canary: readings and the scores this model gives them, see models/detectors/canary.py.
    """

    manifest: Manifest | GeneralManifest
    graph: bytes
    digest: bytes
    canary: bytes | None = None


def record_dtype(fields: Sequence[tuple[Any, ...]]) -> np.dtype[np.void]:
    """How a stream's state is stored. Raises ArtefactError where a state tensor has the name of another field."""
    try:
        return np.dtype(list(fields))
    except ValueError as error:
        raise ArtefactError(f"{MANIFEST}: a state tensor cannot be stored: {error}") from error


def require_place(folder: Path) -> None:
    """Raise an ArtefactError if there is something at `folder` that is no artefact, and no empty folder."""
    if folder.exists() and not (folder / MANIFEST).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtefactError(f"{folder} exists and is not an artefact; name another folder")


def save_artefact(
    folder: Path,
    manifest: Manifest | GeneralManifest,
    graph: bytes,
    weights: bytes,
    card: str,
    canary: bytes | None = None,
) -> None:
    """Write an artefact beside its place and rename it there: a kill at any moment leaves it whole, or the one before.

    The manifest's hashes are filled in here. An artefact already at `folder` is moved to a hidden folder beside it,
    where `standing` finds it until the new one is in place. Anything else at `folder` is an error.

    Raises:
        ArtefactError: `folder` is something else than an artefact, or cannot be written.
    """
    require_place(folder)
    contents = {GRAPH: graph, WEIGHTS: weights, CARD: card.encode()}
    if canary is not None:
        contents[CANARY] = canary
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    complete = manifest.model_copy(update={"files": hashes}).model_dump()
    complete["manifest_sha256"] = manifest_hash(complete)
    contents[MANIFEST] = (json.dumps(complete, indent=1, allow_nan=False) + "\n").encode()
    place = folder.resolve()
    made, before = _hidden(place, "next"), _hidden(place, "before")
    try:
        _remove(made)  # what a kill has left
        made.mkdir(parents=True)
        try:
            for name, content in contents.items():
                with (made / name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            if (place / MANIFEST).exists():
                _remove(before)
                place.rename(before)
            made.rename(place)
            _remove(before)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    except OSError as error:
        raise ArtefactError(f"{folder}: the artefact cannot be written: {error}") from error


def standing(folder: Path) -> Path:
    """Where the artefact of `folder` lies: there, unless a kill came between the two renames that replace it."""
    before = _hidden(folder.resolve(), "before")
    return before if not folder.exists() and (before / MANIFEST).exists() else folder


def _hidden(place: Path, what: str) -> Path:
    return place.with_name(f".{place.name}-{what}")


def _remove(folder: Path) -> None:
    """Remove a hidden folder if it is there: its manifest first, for without one it never passes for an artefact."""
    (folder / MANIFEST).unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)


def manifest_hash(content: dict[str, Any]) -> str:
    """SHA-256 of a manifest in canonical JSON (sorted keys, no spaces, ASCII), without the field that holds it."""
    hashed = {name: value for name, value in content.items() if name != "manifest_sha256"}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def artefact_hashes(manifest: Manifest | GeneralManifest) -> dict[str, Any]:
    """The SHA-256 of an artefact's manifest and of the files beside it."""
    return {"manifest_sha256": manifest.manifest_sha256, "files": dict(manifest.files)}


def model_folder(model: str | Path) -> Path:
    """Where an artefact lies: one of the names in SHIPPED_AS, or a folder."""
    return SHIPPED / SHIPPED_AS[str(model)] if str(model) in SHIPPED_AS else standing(Path(model))


class Signed(Protocol):
    """Knows who must have signed an artefact; see signatures.py."""

    def require(self, folder: Path, manifest_sha256: str) -> None:
        """Raise an ArtefactError unless one of them has, by the signatures in a folder."""

    def require_from(self, signature_by: Callable[[str], str | None], place: str, manifest_sha256: str) -> None:
        """The same by signatures that are found by the key that made them."""


def load_artefact(folder: Path, trust: Signed | None = None) -> Artefact:
    """Read an artefact and verify it: sizes, format version, hashes, who signed it where that matters, manifest.

    Raises:
        ArtefactError: names the file, what was found and what was expected.
    """
    folder = standing(folder)
    trusted = None if trust is None else lambda sha256: trust.require(folder, sha256)
    return artefact_from(lambda name, most: read_file(folder / name, most), f"{folder}{os.sep}", trusted)


def artefact_from(
    read: Callable[[str, int], bytes], place: str, trusted: Callable[[str], None] | None = None
) -> Artefact:
    """Verify an artefact whose files are read one by one, from wherever they are.

    Args:
        read: the content of a file by its name and the most bytes it may have; raises ArtefactError.
        place: where the files are, as errors begin.
        trusted: is given the hash of the manifest, and raises ArtefactError where nobody trusted has signed it.

    Raises:
        ArtefactError: names the file, what was found and what was expected.
    """
    manifest, digest = parse_manifest(read(MANIFEST, LARGEST_MANIFEST), f"{place}{MANIFEST}", trusted)
    files = {}
    for name in (GRAPH, WEIGHTS, CARD, *([CANARY] if CANARY in manifest.files else [])):
        files[name] = read(name, LARGEST_FILE)
        found = hashlib.sha256(files[name]).hexdigest()
        if found != manifest.files.get(name):
            raise ArtefactError(
                f"{place}{name}: SHA-256 is {found[:12]}…, the manifest says {str(manifest.files.get(name))[:12]}…: "
                "the file is damaged or from another artefact; copy or train it again"
            )
    return Artefact(manifest, files[GRAPH], digest, files.get(CANARY))


def parse_manifest(
    raw: bytes, where: str, trusted: Callable[[str], None] | None = None
) -> tuple[Manifest | GeneralManifest, bytes]:
    """A manifest that is as it was written, and the digest of its model; arguments and errors as of artefact_from."""
    try:
        content = json.loads(raw)
        version = content.get("format_version") if isinstance(content, dict) else None
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{where}: not JSON: {error}; train or copy the artefact again") from error
    if version not in READ_VERSIONS:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        advice = "it is from a newer gatewatch: upgrade this one" if newer else "train again"
        known = " and ".join(map(str, READ_VERSIONS))
        raise ArtefactError(f"{where}: format version {version!r}; this gatewatch reads {known}: {advice}")
    try:
        own, said = manifest_hash(content), str(content.get("manifest_sha256"))
    except RecursionError as error:
        raise ArtefactError(f"{where}: nested too deep; train or copy the artefact again") from error
    if own != said:
        raise ArtefactError(
            f"{where}: its SHA-256 is {own[:12]}…, it says {said[:12]}…: "
            "the manifest is damaged or was edited; copy or train the artefact again"
        )
    if trusted is not None:
        trusted(own)
    try:
        general = content.get("kind") == "general"
        manifest = GeneralManifest.model_validate(content) if general else Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ArtefactError(f"{where}: {field}: {first['msg']} (found {first['input']!r:.60})") from error
    if isinstance(manifest, Manifest):
        names = [channel.name for channel in manifest.channels]
        if len(set(names)) != len(names):
            raise ArtefactError(f"{where}: channel names must differ; found {names}")
    return manifest, bytes.fromhex(own)[:8]


def read_file(path: Path, most: int = LARGEST_FILE) -> bytes:
    """The content of a regular file; of a pipe or a device nobody knows when it ends."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ArtefactError(f"{path}: no regular file; expected an artefact made by gatewatch train")
            content = file.read(most + 1)
    except OSError as error:
        raise ArtefactError(
            f"{path}: cannot be read ({error.strerror}); expected an artefact made by gatewatch train"
        ) from error
    if len(content) > most:
        raise ArtefactError(f"{path}: {found.st_size} bytes; at most {most} are read")
    return content
