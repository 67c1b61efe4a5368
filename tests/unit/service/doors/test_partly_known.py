"""Readings of a model's channels and of others are decoded alike, quickly and one by one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gatewatch.service.doors.door import Context, Decoded, StreamNames
from gatewatch.service.doors.partly_known import PartlyKnownDecoder
from tests.support.samples import START_MS
from tests.support.scorer import JSON, LATE_MS, LINES

OWN = ("pressure", "flow")
SENT: list[dict[str, Any]] = [
    {"pressure": 1.0, "flow": 2},
    {"flow": 2.0, "power": 3.0, "pressure": None},
    {"x": None, "flow": 1.5},
    {"a": 1, "pressure": 1.0, "b": 2},
    {"flow": None},
]
ROWS = [(1.0, 2.0), (None, 2.0), (None, 1.5), (1.0, None), (None, None)]
UNKNOWN = {1: ("power",), 2: ("x",), 3: ("a", "b")}


class Served:
    """What a context asks of a model."""

    decoder = PartlyKnownDecoder(OWN, 60_000, 1000, 4, ())


@pytest.mark.parametrize("flaw", [None, {"pressure": "high"}, {"power": 1.0}, dict.fromkeys(("flow", *"abcd"), 1)])
@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("times", [1, 30])
def test_a_flaw_in_one_reading_changes_nothing_for_the_others(
    flaw: dict[str, Any] | None, lines: bool, times: int
) -> None:
    """With one every item is looked at by itself."""
    values = SENT * times + ([] if flaw is None else [flaw])
    sent = [{"stream": "s", "seq": at, "timestamp": START_MS / 1000, "values": one} for at, one in enumerate(values)]
    body = "\n".join(map(json.dumps, sent)).encode() if lines else json.dumps(sent).encode()
    door: Any = LINES if lines else JSON
    context: Any = Context(Served(), StreamNames("t"), None, LATE_MS, None)  # type: ignore[arg-type]
    whole = door.decode(body, context)
    parts: list[Decoded] = [whole[0]] if whole else list(door.open(body, context).parts)
    rows = [row for part in parts for row in part.readings.values]
    assert rows == ROWS * times
    at = 0
    unknown: dict[int, tuple[str, ...]] = {}
    for part in parts:
        unknown |= {at + place: names for place, names in part.unknown.items()}
        at += len(part)
    assert unknown == {5 * turn + place: names for turn in range(times) for place, names in UNKNOWN.items()}
    assert sum(len(part.refused) for part in parts) == (flaw is not None)
