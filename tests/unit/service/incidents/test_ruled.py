"""What readings make of the incidents of a stream of which something is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gatewatch.models.detectors.detector import ANOMALOUS, NORMAL
from gatewatch.models.detectors.incidents import JOIN_READINGS, OPEN_READINGS
from gatewatch.service.core.layout import entry_dtype
from gatewatch.service.core.records import ALERT, OPEN, state_dtype
from gatewatch.service.incidents.incident import Incident, RaisedAlert, advance, decode, encode, scored, sought
from gatewatch.service.incidents.ruled import Fold, decode_pending, encode_pending, fold, may_begin
from gatewatch.service.incidents.rules import NO_RULES, Rules, Span, mark
from gatewatch.service.policies.policy import Policy, rules_of
from gatewatch.service.policies.windows import Window

CHANNELS = ("pressure", "flow")
READING_MS = 1000


def readings(scores: dict[int, float], count: int, values: dict[int, float] | None = None, **rules: Any) -> Any:
    """Readings a second apart with these scores, else 0.1, and what the detector says of them."""
    made = np.zeros(count, entry_dtype(2))
    made["n"], made["timestamp_ms"] = range(count), READING_MS * np.arange(count)
    made["attribution"], made["values"] = (0.75, 0.25), (9.0, 1.0)
    made["mid"], made["half"] = (4.0, 2.0), (1.0, 0.5)
    calm = JOIN_READINGS
    for n in range(count):
        score = scores.get(n, 0.1)
        status = ANOMALOUS if score > 1 else NORMAL
        if score > 1:
            status |= ALERT if calm >= JOIN_READINGS else 0
            calm = 0
        else:
            calm += 1
        made["score"][n], made["status"][n] = score, status | (OPEN if calm < OPEN_READINGS else 0)
        made["values"][n, 0] = (values or {}).get(n, 9.0)
    own = asked(**rules)
    heads = np.zeros(count, state_dtype(np.dtype([("readings", "<u4")]), 2))
    mark(made, [(at, own) for at in range(count)], [CHANNELS] * count, heads)
    return made


def asked(**rules: Any) -> Rules:
    windows = tuple(Window.model_validate(one).active(name) for name, one in rules.pop("windows", {}).items())
    return rules_of(Policy.model_validate(rules), windows) or NO_RULES


def made_of(scores: dict[int, float], count: int, values: dict[int, float] | None = None, **rules: Any) -> Fold:
    """All at once; and the same in batches, through what is kept in between."""
    entries, own = readings(scores, count, values, **rules), asked(**rules)
    whole = fold(own, "pump", CHANNELS, None, None, False, entries)
    for size in (1, 7):
        assert (whole.alerts, whole.changed) == _cut(own, entries, size)
    return whole


def _cut(own: Rules, entries: Any, size: int) -> tuple[list[tuple[int, RaisedAlert]], dict[int, Incident]]:
    """What readings come to in batches, with the past where something may begin: alerts and incidents."""
    latest, pending, was_open = None, None, False
    alerts: list[tuple[int, RaisedAlert]] = []
    changed: dict[int, Incident] = {}
    for at in range(0, len(entries), size):
        some = entries[at : at + size]
        before = sought(entries[:at][::-1]) if may_begin(own, latest, pending, some) else []
        part = fold(own, "pump", CHANNELS, latest, pending, was_open, some, before)
        if part.is_told != part.was_open:
            assert part.is_held
        latest = None if part.incident is None else decode(encode(part.incident))
        pending = decode_pending(encode_pending(part.pending))
        was_open, alerts, changed = part.was_open, alerts + part.alerts, changed | part.changed
    return alerts, changed


def test_what_goes_on_with_an_incident_asks_for_no_past() -> None:
    """With merge, too: only what comes after the gap may begin another one."""
    scores = {10: 2.0, 11: 2.0, 14: 2.0, 20: 2.0, 21: 2.0}
    rules: dict[str, Any] = {"merge": {"readings": 5}}
    entries, own, latest = readings(scores, 30, **rules), asked(**rules), None
    begins = []
    for at in range(30):
        if may_begin(own, latest, None, entries[at : at + 1]):
            begins.append(at)
        latest = fold(own, "pump", CHANNELS, latest, None, at > 10, entries[at : at + 1]).incident
    assert begins == [10, 20]


@pytest.mark.parametrize(("between", "asks"), [(OPEN, False), (0, True)])
def test_an_anomaly_that_begins_in_a_batch_after_the_end_of_another_one_asks_for_the_past(
    between: int, asks: bool
) -> None:
    entries, own = readings({10: 2.0, 12: 2.0}, 13), asked(cool_off={"readings": 5})
    entries["status"][11] = NORMAL | between
    latest = fold(own, "pump", CHANNELS, None, None, False, entries[:11]).incident
    assert latest is not None
    assert latest.is_open
    assert may_begin(own, latest, None, entries[11:]) == asks


def test_an_onset_lies_no_further_back_than_a_history_reaches_however_readings_are_cut() -> None:
    scores = dict.fromkeys(range(20), 0.7) | {20: 2.0, 21: 2.0}
    rules: dict[str, Any] = {"minimum": {"readings": 2}}
    entries, own = readings(scores, 22, **rules), asked(**rules)
    for start in (0, 5, 12, 20):
        past = list(map(scored, entries[:start]))[-8:]
        (incident,) = fold(own, "pump", CHANNELS, None, None, False, entries[start:], past, 8).changed.values()
        assert incident.onset_ms == entries[12]["timestamp_ms"]


def test_a_gated_reading_does_not_go_on_with_an_anomaly_of_long_ago() -> None:
    above = [{"direction": "above"}]
    scores = {10: 2.0, 11: 2.0, 500: 2.0, 501: 2.0}
    made = made_of(scores, 510, {500: 1.0}, gates=above, minimum={"readings": 3})
    assert made.changed == {}
    assert made.pending is not None
    assert made.pending.first_n == 501
    (incident,) = made_of(
        {**scores, 502: 2.0, 503: 2.0}, 510, {500: 1.0}, gates=above, minimum={"seconds": 2}
    ).changed.values()
    assert (incident.n, incident.onset_ms) == (503, 500 * READING_MS)


def told(made: Fold) -> list[int]:
    return [n for n, _ in made.alerts]


def flawed(*begins: int, length: int = 1, score: float = 2.0) -> dict[int, float]:
    return {n: score for begin in begins for n in range(begin, begin + length)}


@pytest.mark.parametrize("seed", range(20))
def test_where_nothing_is_asked_incidents_are_the_detectors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    strange = flawed(*rng.choice(900, rng.integers(1, 12), replace=False).tolist(), length=int(rng.integers(1, 8)))
    scores = {n: float(rng.uniform(1.1, 9)) for n in strange}
    entries = readings(scores, 1000)
    plain = advance(None, "pump", entries, CHANNELS, False)
    made = fold(NO_RULES, "pump", CHANNELS, None, None, False, entries)
    assert list(made.changed.values()) == plain.incidents
    assert not made.is_held
    assert made.alerts == plain.alerts
    assert [n for n, _ in made.alerts] == entries["n"][entries["status"] & ALERT > 0].tolist()


def test_an_anomaly_is_an_incident_once_it_has_lasted_in_readings_or_seconds() -> None:
    scores = flawed(10, length=2) | flawed(300, length=9)
    assert told(made_of(scores, 400, minimum={"readings": 3})) == [302]
    assert told(made_of(scores, 400, minimum={"seconds": 3})) == [303]
    assert told(made_of(scores, 400, minimum={"readings": 10})) == []
    made = made_of(scores, 400, minimum={"readings": 3})
    (one,) = made.changed.values()
    assert (one.n, one.onset_ms, one.start_ms, one.anomalous, one.end_ms) == (302, 300_000, 302_000, 7, 308_000)


def test_what_is_interrupted_for_longer_than_an_incident_stays_open_begins_anew() -> None:
    scores = flawed(10, 10 + OPEN_READINGS + 2, length=2)
    assert told(made_of(scores, 100, minimum={"readings": 3})) == []
    assert told(made_of(flawed(10, 20, length=2), 100, minimum={"readings": 3})) == [20]
    assert told(made_of(flawed(10, 20, length=2), 100, minimum={"readings": 3}, merge={"readings": 5})) == []


def test_with_less_than_merge_between_them_anomalies_are_one_incident_which_stays_open() -> None:
    scores = flawed(10, 20, 320, length=3)
    assert told(made_of(scores, 400)) == [10, 320]
    assert told(made_of(scores, 400, merge={"readings": 5})) == [10, 20, 320]
    made = made_of(scores, 400, merge={"readings": 500})
    assert told(made) == [10, 320]  # the detector's second alert is noted in it, as one of another channel is
    (one,) = made.changed.values()
    assert (one.is_open, one.anomalous, len(one.alerts), made.is_held) == (True, 9, 2, True)
    assert told(made_of(scores, 400, merge={"seconds": 7})) == [10, 20, 320]


def test_after_an_incident_the_next_ones_are_kept_and_told_once_it_has_cooled_off() -> None:
    scores = flawed(10, 400, 700, length=3)
    made = made_of(scores, 800, cool_off={"readings": 500})
    assert told(made) == [10, 700]
    assert [(one.n, one.untold) for one in made.changed.values()] == [(10, None), (400, "cool_off"), (700, None)]
    lasting = made_of(flawed(10) | flawed(400, length=300), 800, cool_off={"seconds": 500})
    assert told(lasting) == [10, 510]
    assert [(one.n, one.untold) for one in lasting.changed.values()] == [(10, None), (400, None)]


def test_gated_readings_begin_nothing_and_the_first_that_counts_does() -> None:
    gates = [{"direction": "below"}]
    made = made_of(flawed(10, length=20), 200, dict.fromkeys(range(15, 20), 1.0), gates=gates)
    assert told(made) == [15]
    (one,) = made.changed.values()
    assert (one.n, one.gate, one.gated, one.anomalous, one.end_ms) == (15, "direction", 10, 5, 19_000)
    assert made_of(flawed(10, length=20), 200, gates=gates).incident is None


def test_an_incident_ends_though_gates_are_closed_on_an_anomaly_that_goes_on() -> None:
    made = made_of(flawed(10, length=150), 160, {10: 1.0}, gates=[{"direction": "below"}])
    (one,) = made.changed.values()
    assert (one.end_ms, one.gated, made.is_told, made.is_held) == (10_000, OPEN_READINGS, False, True)


def test_a_limit_is_an_incident_of_its_own_reason_at_once_and_stays_open_as_long_as_others() -> None:
    low = dict.fromkeys((10, 12, 30), 0.1)
    rules: dict[str, Any] = {"gates": [{"channel": "pressure", "low": 0.5}], "minimum": {"readings": 5}}
    made = made_of({}, 41, low, **rules)
    (one,) = made.changed.values()
    assert (told(made), one.reason, one.is_open, made.is_held) == ([10], "limit", True, True)
    assert (one.channels[0].channel, one.channels[0].direction, one.anomalous) == ("pressure", "below", 3)
    assert made.alerts[0][1].reason == "limit"
    (ended,) = made_of({}, 100, low, **rules).changed.values()
    assert ended.end_ms == 30_000
    (both,) = made_of(flawed(20, length=9, score=50.0), 31, low, **rules).changed.values()
    assert (both.reason, both.peak_score) == ("limit", 50.0)


def test_under_a_window_incidents_are_kept_and_told_once_it_is_over_if_they_go_on() -> None:
    window = {"start": "1970-01-01T00:00:05Z", "end": "1970-01-01T00:01:00Z", "skip": "judging"}
    over = made_of(flawed(10, length=5), 300, windows={"pump work": window})
    (one,) = over.changed.values()
    assert (over.alerts, one.untold, one.window, one.is_open) == ([], "window", "pump work", False)
    lasting = made_of(flawed(10, length=80), 300, windows={"pump work": window})
    (one,) = lasting.changed.values()
    assert (told(lasting), one.untold, one.window, one.n) == ([60], None, "pump work", 10)


def test_an_incident_that_is_open_when_a_window_begins_goes_on_and_raises_no_more_alerts() -> None:
    window = {"start": "1970-01-01T00:00:30Z", "end": "1970-01-01T00:05:00Z"}
    made = made_of(flawed(10, length=50), 58, windows={"work": window})
    assert (told(made), made.is_told) == ([10], True)


def test_an_entry_that_was_seen_changes_nothing() -> None:
    entries = readings(flawed(10, length=5), 20)
    once = fold(NO_RULES, "pump", CHANNELS, None, None, False, entries)
    again = fold(NO_RULES, "pump", CHANNELS, once.incident, once.pending, True, entries)
    assert (again.changed, again.alerts) == ({}, [])


def test_spans_are_reached_in_their_own_measure() -> None:
    assert Span(5, None).reached(5, 0)
    assert not Span(5, None).reached(4, 10**9)
    assert Span(None, 5).reached(0, 5000)
