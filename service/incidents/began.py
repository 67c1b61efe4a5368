"""Began: what is kept when an incident begins so that its verdicts can be proved later: the state before it.

It is the stream's record before the batch in which the incident began, so that the readings from there on, which the
histories beside the incident have, can be scored again to the bit; see service/proofs.
"""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version
from typing import Any

import msgspec
import numpy as np

from gatewatch.models.detectors.asked import Words
from gatewatch.models.detectors.detector import Detector


class Began(msgspec.Struct, frozen=True):
    """What an incident is proved from.

    Attributes:
        record: the stream's, as Redis had it.
        asked: of the stream's scoring, as `words` in models/detectors/asked.py.
        provenance: of the detector, see there.
        versions: what it ran on.
    """

    record: bytes
    asked: Words
    provenance: dict[str, Any]
    versions: dict[str, str]


def began(record: bytes, asked: Words, detector: Detector) -> bytes:
    """As it is kept."""
    return msgspec.msgpack.encode(Began(record, asked, dict(detector.provenance), versions()))


def decode(kept: bytes) -> Began | None:
    """What is kept; None where it cannot be read."""
    try:
        return msgspec.msgpack.decode(kept, type=Began)
    except msgspec.MsgspecError:
        return None


@cache
def versions() -> dict[str, str]:
    """Of all that the last bits of a score depend on."""
    return {
        "gatewatch": version("gatewatch"),
        "numpy": np.__version__,
        "onnxruntime": version("onnxruntime"),
        "machine": platform.machine(),
    }
