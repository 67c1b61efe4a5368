"""What is left of a stream's incidents when it goes on from another state: an older one, another stream's, or none."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gatewatch.service.core.store import IncidentsLeft
from gatewatch.service.incidents.incident import decode, encode


def is_settled(kept: Mapping[int, bytes], readings: int, is_kept: bool) -> bool:
    """Whether the incident that is open in a state is one that has ended for good, so that the state lets it go.

    A person closed it; or it is held in the state, and not by an incident that is open still.

    Args:
        kept, readings: as in `incidents_left`.
        is_kept: the state is kept from learning.
    """
    left = max((n for n in kept if 0 <= n < readings), default=None)
    latest = None if left is None else decode(kept[left])
    if latest is not None and latest.is_open:
        return False
    return is_kept or (latest is not None and latest.closed)


def incidents_left(
    row: int, kept: Mapping[int, bytes], readings: int, is_open: bool, last_ms: int
) -> IncidentsLeft | None:
    """Those that began with readings which the state has seen; None where nothing changes.

    The latest one of them is open if one is open in the state: it has not ended yet, where its end lies behind. A
    silence ends, and is forgotten where it began behind more readings than the state has seen.

    Args:
        row: of the stream in Writes.
        kept: its incidents by number, as they are kept.
        readings: that the state has seen; an incident has the number of its first one, a silence theirs below 0.
        is_open: whether an incident is open in the state.
        last_ms: time of its last reading.
    """
    forgotten = sorted(n for n in kept if not -readings <= n < readings)
    changed: dict[int, bytes] = {}
    known = {n: decode(content) for n, content in kept.items()}
    awaited = {n for n, one in known.items() if one is not None and one.is_waited_for}
    for n, silence in known.items():
        if -readings <= n < 0 and silence is not None and silence.is_open:
            changed[n] = encode(msgspec.structs.replace(silence, end_ms=silence.last_ms))
    left = max((n for n in kept if 0 <= n < readings), default=None)
    if left is None:
        return IncidentsLeft(row, forgotten, changed, None, sorted(awaited)) if forgotten or changed else None
    content = kept[left]
    incident = known[left]
    if incident is not None and incident.is_open and not is_open:
        content = encode(msgspec.structs.replace(incident, end_ms=incident.last_ms))
    elif incident is not None and not incident.is_open and is_open and incident.last_ms >= last_ms:
        content = encode(msgspec.structs.replace(incident, end_ms=None))
    if not (forgotten or changed) and content == kept[left]:
        return None
    ended = awaited - ({left} if content == kept[left] else set())
    return IncidentsLeft(row, forgotten, changed, (left, content), sorted(ended))
