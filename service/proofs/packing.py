"""Packing: from what is kept beside an incident to what its verdicts follow from, as a service hands it out.

The state before the batch in which the incident began, and the readings that follow from it by the chain of their tags:
as many as the histories beside the incident have without a gap. What comes later, or was scored by another model, with
other channels, or from values of which only float32 is known, is left out: nothing in a proof is there on trust but the
state that it begins with.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.asked import Words
from gatewatch.models.detectors.detector import REASONS, STATUSES
from gatewatch.service.core import history
from gatewatch.service.core import records as state
from gatewatch.service.core.chain import Chain
from gatewatch.service.core.history import Entries
from gatewatch.service.core.layout import Layout, entry_dtype, layout_of, of_ring
from gatewatch.service.core.records import (
    ALERT,
    CLOSED,
    CORRECTED,
    GATE_BITS,
    KEPT,
    LET_GO,
    OPEN,
    REASON_BITS,
    STATUS_BITS,
    UNLEARNED,
    Records,
)
from gatewatch.service.errors import NoProof
from gatewatch.service.incidents.began import Began
from gatewatch.service.incidents.incident import Incident
from gatewatch.service.incidents.rules import GATE_SHIFT, gate_of

FORMAT = 1

_ENDS = (("closed", CLOSED), ("let_go", LET_GO))


def packed(
    incident: Incident,
    began: Began | None,
    rings: Sequence[bytes],
    seed: int,
    asked: Callable[[Sequence[str]], Words],
) -> dict[str, Any]:
    """A proof as a service answers it: `proof`, `state` and `readings`.

    Args:
        began: what was kept at its beginning.
        rings: histories of the stream, the latest last.
        seed: where the checksums of the stream's records start.
        asked: what is asked of the stream now, if these are its channels.

    Raises:
        NoProof: there is no state to begin with, or the readings do not follow from it.
    """
    if incident.is_silence:
        raise NoProof(f"{incident.id} is a silence, which no reading raised: there is no verdict to be proved")
    if began is None:
        raise NoProof(f"the state before incident {incident.id} is not kept: it began with an earlier version")
    part = state.stream_part(began.record, seed)
    if part is None:
        raise NoProof(f"the state before incident {incident.id} is damaged: nothing follows from it")
    stream, layout, model_part = part
    entries = _following(stream, layout, model_part[: state.MODEL_BYTES], rings, seed)
    if not (entries["n"] == incident.n).any():
        raise NoProof(f"the readings with which incident {incident.id} began are not kept any more")
    body = began.record[: len(began.record) - len(layout.encoded) - 4]  # with its level, where it has one
    return {
        "proof": {
            "format": FORMAT,
            "incident": msgspec.to_builtins(incident),
            "model": {"digest": model_part[: state.MODEL_BYTES].hex(), **began.provenance},
            "channels": list(layout.model),
            "asked": began.asked,
            "asked_now": asked(layout.model),
            "versions": began.versions,
        },
        "state": {
            "readings": int(stream["readings"][0]),
            "tag": bytes(stream["tag"][0]).hex(),
            "record": base64.b64encode(body).decode(),
        },
        "readings": as_json(entries),
    }


def _following(stream: Records, layout: Layout, model: bytes, rings: Sequence[bytes], seed: int) -> Entries:
    """The readings that follow from a state by their tags, in the model's channels.

    Of two that do, the one of the earlier ring is taken: what a late reading before the incident did to the readings
    behind it, and to their numbers, is none of what the incident was found by.
    """
    own = Chain(layout.model)
    found: dict[int, list[Any]] = {}
    for ring in rings:
        for entry in _of_model(ring, layout, seed):
            found.setdefault(int(entry["n"]), []).append(entry)
    at, tag, taken = int(stream["readings"][0]), stream["tag"][:1], list[Any]()
    while True:
        for entry in found.get(at, ()):
            one = entry.reshape(1)
            tags = own.tags(tag, one["seq"], one["timestamp_ms"], one["values"])
            if tags[0] == one["tag"][0] and bytes(one["model"][0]) == model and not one["single"][0]:
                taken.append(entry)
                at, tag = at + 1, tags
                break
        else:
            return np.array(taken, entry_dtype(len(layout.model)))


def _of_model(ring: bytes, layout: Layout, seed: int) -> Entries:
    """The readings of a ring in the model's channels; of those that have any other channel, none."""
    names = of_ring(ring)
    if names is None or not set(layout.model) <= set(names):
        return np.empty(0, entry_dtype(len(layout.model)))
    kept = history.unpack_entries(ring, layout_of(names, names), seed)
    others = [at for at, name in enumerate(names) if name not in layout.model]
    alien = np.isfinite(kept["values"][:, others]) | np.isfinite(kept["attribution"][:, others])
    return history.gathered(kept[~alien.any(axis=1)], layout_of(names, layout.model))


def as_json(entries: Entries) -> list[dict[str, Any]]:
    """Readings with their verdicts; numbers exactly, what is none as null."""
    return [
        {
            "n": int(entry["n"]),
            "timestamp_ms": int(entry["timestamp_ms"]),
            "seq": int(entry["seq"]),
            "session": int(entry["session"]),
            "values": _numbers(entry["values"]),
            "tag": bytes(entry["tag"]).hex(),
            "score": float(entry["score"]),
            "status": STATUSES[int(entry["status"]) & STATUS_BITS],
            "reason": REASONS[int(entry["reason"]) & REASON_BITS],
            "taught": not entry["reason"] & UNLEARNED,
            **({"gate": gate_of(entry)} if gate_of(entry) else {}),
            "kept": bool(entry["status"] & KEPT),
            **{name: True for name, bit in _ENDS if entry["status"] & bit},
            "alert": bool(entry["status"] & ALERT),
            "open": bool(entry["status"] & OPEN),
            "corrected": bool(entry["status"] & CORRECTED),
            "mid": _numbers(entry["mid"]),
            "half": _numbers(entry["half"]),
            "attribution": _numbers(entry["attribution"]),
        }
        for entry in entries
    ]


def from_json(readings: Sequence[dict[str, Any]], channels: int) -> Entries:
    """The same back as entries, without the model. Raises KeyError, TypeError or ValueError for what is no reading."""
    entries = np.zeros(len(readings), entry_dtype(channels))
    for at, reading in enumerate(readings):
        for name in ("n", "timestamp_ms", "seq", "session", "score"):
            entries[name][at] = reading[name]
        entries["tag"][at] = np.void(bytes.fromhex(reading["tag"]))
        flags = (("alert", ALERT), ("open", OPEN), ("corrected", CORRECTED))
        entries["status"][at] = STATUSES.index(reading["status"]) | sum(bit for name, bit in flags if reading[name])
        entries["reason"][at] = REASONS.index(reading["reason"]) | (0 if reading["taught"] else UNLEARNED)
        entries["reason"][at] |= int(reading.get("gate", 0)) << GATE_SHIFT & GATE_BITS
        later = (("kept", KEPT), *_ENDS)  # files made before there was such a thing lack it
        entries["status"][at] |= sum(bit for name, bit in later if reading.get(name))
        for name in ("values", "mid", "half", "attribution"):
            entries[name][at] = np.array(reading[name], np.float64)  # null becomes NaN
    return entries


def _numbers(values: NDArray[Any]) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.astype(np.float64).tolist()]
