"""Where late readings belong in their stream, and what is answered to those that have no place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gatewatch.service.core import corrections, history
from gatewatch.service.core import records as state
from gatewatch.service.core.correction_jobs import kept_history
from gatewatch.service.core.corrections import Correction, Gap
from gatewatch.service.core.late_readings import LateReading
from gatewatch.service.core.loading import LoadedBatch
from gatewatch.service.core.outcomes import Answer, encode_kept
from gatewatch.service.core.readings import Model
from gatewatch.service.core.sequencing import across_gap, decide, unanswered
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import Contended

Told = tuple[LateReading, str, Answer]
"""A late reading that has no place: its status and its answer; or an error, if it is late no more."""


def place(
    model: Model, loaded: LoadedBatch, row: int, kept: Sequence[bytes], ring: bytes, late: list[LateReading]
) -> tuple[Correction | None, list[LateReading], list[Told], list[LateReading]]:
    """Find places for the late readings of one stream.

    Returns:
        Its correction, and the readings that have their places in it; those that have none; and those that have
        to wait because they stand here twice.
    """
    stepper, stream, seed, record = model.stepper, loaded.streams[row], loaded.seeds[row], loaded.records[row]
    layout = loaded.layouts[row]
    told: list[Told] = []
    apart: dict[int, LateReading] = {}
    twins: list[LateReading] = []
    values = np.array([reading.batch.values[reading.place] for reading in late])
    seqs, times_ms = [reading.seq for reading in late], [reading.time_ms for reading in late]
    known = history.find_each(ring, layout, seed, seqs, times_ms, values)
    for reading, entry in zip(late, known, strict=True):
        decision = decide(reading.batch, np.array([reading.place]), loaded.records[row : row + 1], 0)
        if decision.new[0] or decision.refused:
            told.append((reading, "", _went_back(stream)))
            continue
        result = unanswered(reading.batch, reading.place, entry, layout, record)
        if result is None:  # another process was first, or the same reading a moment ago
            encoders = [reading.batch.encoders[reading.place]]
            (again,) = encode_kept(encoders, [stream], entry, layout)
            told.append((reading, "replayed", again))
        elif result.status != "late" or not corrections.within_window(record, reading.time_ms):
            told.append((reading, result.status, result))
        elif reading.identity in apart:
            twins.append(reading)
        else:
            apart[reading.identity] = reading
    if not apart:
        return None, [], told, twins
    in_order = [apart[identity] for identity in sorted(apart)]
    entries = np.zeros(len(in_order), stepper.entry)
    for at, reading in enumerate(in_order):
        entries["values"][at] = reading.batch.values[reading.place]
    if rules := loaded.rules.get(row):
        entries["reason"] = [0 if rules.teaches(reading.time_ms) else state.UNLEARNED for reading in in_order]
    entries["seq"] = [reading.seq for reading in in_order]
    entries["timestamp_ms"] = [reading.time_ms for reading in in_order]
    flawed, _, flaws = state.unpack(
        kept, [seed] * 2, stepper.record, [layout] * len(kept), stepper.detector.digest, stepper.slots
    )
    sound = {slot: flawed[slot : slot + 1] for slot in range(len(kept)) if slot not in flaws}
    since = kept_history(model, ring, layout, seed)
    correction, found = corrections.place(
        layout.chain,
        None if model.any_channels and np.isnan(since["attribution"]).any() else stepper.fresh(1),
        loaded.records[row : row + 1],
        sound,
        since,
        entries,
        stepper.slots,
    )
    chosen = []
    for reading, place in zip(in_order, found, strict=True):
        if isinstance(place, int):
            chosen.append(reading)
            continue
        if isinstance(place, Gap):
            result = across_gap(stream, reading.time_ms, reading.seq, place.expected)
        else:
            result = unanswered(reading.batch, reading.place, entries[:0], layout, record)
        if result is not None:
            told.append((reading, result.status, result))
    return correction, chosen, told, twins


def _went_back(stream: StreamKey) -> Contended:
    return Contended(f"stream {stream.name} was deleted, or went back, meanwhile; send the readings again")
