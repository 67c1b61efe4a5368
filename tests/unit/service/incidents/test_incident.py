"""What readings make of a stream's incident."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from gatewatch.models.detectors.detector import ANOMALOUS, NORMAL, REASONS
from gatewatch.service.core.layout import entry_dtype
from gatewatch.service.core.records import ALERT, OPEN
from gatewatch.service.incidents.incident import (
    MOST_ALERTS,
    Incident,
    Scored,
    advance,
    begins_another,
    concerns,
    decode,
    encode,
    number_and_stream,
    sought,
)

CHANNELS = ("pressure", "flow")


def entries(*given: tuple[int, float, int], value: tuple[float, float] = (9.0, 1.0)) -> Any:
    """Readings: number, score, and what is added to their status; one above 1 is anomalous."""
    made = np.zeros(len(given), entry_dtype(2))
    for at, (n, score, more) in enumerate(given):
        made[at]["n"], made[at]["timestamp_ms"], made[at]["score"] = n, 1000 * n, score
        made[at]["status"] = (ANOMALOUS if score > 1 else NORMAL) | more
    made["attribution"] = (0.75, 0.25)
    made["values"], made["mid"], made["half"] = value, (4.0, 2.0), (1.0, 0.5)
    return made


def cut(given: Any, size: int, back: int) -> dict[str, Incident]:
    """Incidents of readings in batches, with the past where one begins, as far back as a history keeps it."""
    found: dict[str, Incident] = {}
    latest, was_open, past = None, False, list[Scored]()
    for start in range(0, len(given), size):
        part = given[start : start + size]
        before = past if begins_another(latest, part, was_open) else []
        for incident in advance(latest, "pump", part, CHANNELS, was_open, before, back).incidents:
            found[incident.id] = latest = incident
        was_open = bool(part["status"][-1] & OPEN)
        past = sought(given[start + len(part) - 1 :: -1][:back])
    return found


def one(before: Incident | None, given: Any, *, was_open: bool = False, history: tuple[Scored, ...] = ()) -> Incident:
    (incident,) = advance(before, "pump", given, CHANNELS, was_open, history).incidents
    return incident


def test_an_alert_opens_an_incident_with_channels_directions_and_values() -> None:
    incident = one(None, entries((7, 2.5, ALERT | OPEN)))
    assert (incident.id, incident.start_ms, incident.is_open) == ("7.pump", 7000, True)
    assert (incident.peak_score, incident.anomalous, incident.judged) == (2.5, 1, 1)
    first, second = incident.channels
    assert (first.channel, first.share, first.direction, first.actual) == ("pressure", 0.75, "above", 9.0)
    assert first.expected == (3.0, 4.0, 5.0)
    assert second.direction == "below"


def test_the_onset_is_the_first_reading_on_the_way_to_the_alarm() -> None:
    history = tuple(Scored(n, 1000 * n, score) for n, score in enumerate([0.9, 0.2, 0.6, 0.8, 0.9]))
    assert one(None, entries((5, 1.5, ALERT | OPEN)), history=history).onset_ms == 2000
    assert one(None, entries((5, 1.5, ALERT | OPEN))).onset_ms == 5000
    assert one(None, entries((3, 0.4, 0), (4, 0.7, 0), (5, 1.5, ALERT | OPEN))).onset_ms == 4000


def test_it_goes_on_keeps_its_highest_reading_and_ends_at_its_last_anomalous_one() -> None:
    begun = one(None, entries((1, 2.0, ALERT | OPEN)))
    gone_on = one(begun, entries((2, 5.0, OPEN), (3, 0.1, OPEN), (4, 3.0, OPEN), value=(1.0, 1.0)), was_open=True)
    assert (gone_on.peak_score, gone_on.peak_ms, gone_on.last_score) == (5.0, 2000, 3.0)
    assert gone_on.channels[0].direction == "below"
    assert (gone_on.anomalous, gone_on.judged, gone_on.last_ms, gone_on.end_ms) == (3, 4, 4000, None)
    ended = one(gone_on, entries((5, 0.1, OPEN), (6, 0.1, 0)), was_open=True)
    assert (ended.end_ms, ended.is_open, ended.judged) == (4000, False, 4)


def test_an_anomalous_reading_without_an_alert_goes_on_with_the_one_that_ended() -> None:
    ended = one(one(None, entries((1, 2.0, ALERT | OPEN))), entries((2, 0.0, 0)), was_open=True)
    again = one(ended, entries((3, 1.5, OPEN)))
    assert (again.id, again.is_open, again.anomalous) == ("1.pump", True, 2)


def test_another_alert_within_an_open_incident_is_noted_and_one_after_it_begins_another() -> None:
    begun = one(None, entries((1, 2.0, ALERT | OPEN)))
    joins = entries((2, 2.0, ALERT | OPEN), value=(4.0, 1.0))
    joins["attribution"] = (0.25, 0.75)
    more = one(begun, joins, was_open=True)
    assert [(alert.timestamp_ms, alert.channel, alert.direction, alert.actual) for alert in more.alerts] == [
        (1000, "pressure", "above", 9.0),
        (2000, "flow", "below", 1.0),
    ]
    (first, second), alerts = advance(more, "pump", entries((3, 0.0, 0), (4, 2.0, ALERT | OPEN)), CHANNELS, True)
    assert (first.id, first.end_ms) == ("1.pump", 2000)
    assert (second.id, second.is_open) == ("4.pump", True)
    assert alerts == [(4, second.alerts[0])]


def test_alerts_are_bounded_and_the_first_stays() -> None:
    incident = one(None, entries((0, 2.0, ALERT | OPEN)))
    for n in range(1, 100):
        incident = one(incident, entries((n, 2.0, ALERT | OPEN)), was_open=True)
    assert len(incident.alerts) == MOST_ALERTS
    assert [incident.alerts[0].timestamp_ms, incident.alerts[-1].timestamp_ms] == [0, 99_000]


def test_readings_in_batches_of_any_size_make_the_same_incidents() -> None:
    rng = np.random.default_rng(4)
    given, open_for = [], 0
    for n in range(400):
        score = float(rng.choice([0.1, 0.6, 1.5, 4.0], p=[0.7, 0.2, 0.05, 0.05]))
        alert = score > 1 and open_for == 0
        open_for = 5 if score > 1 else max(0, open_for - 1)
        given.append((n, score, ALERT * alert | (OPEN if open_for else 0)))
    readings = entries(*given)

    alone = cut(readings, 1, 400)
    assert len(alone) > 5
    assert cut(readings, 7, 400) == cut(readings, 400, 400) == alone


def test_an_incident_that_begins_in_a_batch_that_began_in_another_one_has_its_onset_before_the_batch() -> None:
    given = [
        (0, 2.0, ALERT | OPEN),
        (1, 0.1, OPEN),
        (2, 0.7, OPEN),
        (3, 0.7, OPEN),
        (4, 0.7, 0),
        (5, 2.0, ALERT | OPEN),
    ]
    assert [cut(entries(*given), size, 8)["5.pump"].onset_ms for size in (1, 4, 6)] == [2000] * 3


def test_an_onset_lies_no_further_back_than_a_history_reaches_however_readings_are_cut() -> None:
    """Also where all that is kept is on its way to the alarm."""
    readings = entries(*((n, 0.7, 0) for n in range(20)), (20, 2.0, ALERT | OPEN))
    assert [cut(readings, size, 8)["20.pump"].onset_ms for size in (1, 3, 7, 21)] == [12_000] * 4


def test_a_reading_that_was_seen_changes_nothing() -> None:
    begun = one(None, entries((5, 2.0, ALERT | OPEN)))
    assert advance(begun, "pump", entries((4, 3.0, OPEN), (5, 3.0, ALERT | OPEN)), CHANNELS, False) == ([], [])


def test_a_missing_value_and_an_unknown_channel_have_no_direction() -> None:
    given = entries((1, 2.0, ALERT | OPEN), value=(np.nan, 1.0))
    given["mid"][:, 1] = np.nan
    first, second = one(None, given).channels
    assert (first.actual, first.direction, first.expected) == (None, None, (3.0, 4.0, 5.0))
    assert (second.actual, second.direction, second.expected) == (1.0, None, None)


def test_what_is_kept_is_read_again_and_what_is_no_incident_is_none() -> None:
    incident = one(None, entries((1, 2.0, ALERT | OPEN)))
    assert decode(encode(incident)) == incident
    assert decode(b"foreign") is None
    assert incident.reason in REASONS


@pytest.mark.parametrize(
    ("id_", "parts"), [("7.pump.a", (7, "pump.a")), ("x.pump", None), ("7", None), ("7.", None), ("٧.pump", None)]
)
def test_an_id_is_a_number_and_a_stream(id_: str, parts: tuple[int, str] | None) -> None:
    assert number_and_stream(id_) == parts


def test_only_readings_of_incidents_concern_them() -> None:
    assert concerns(entries((1, 0.1, 0), (2, 2.0, ALERT | OPEN), (3, 0.1, OPEN), (4, 1.5, 0))).tolist() == [
        False, True, True, False,
    ]  # fmt: skip


def test_what_is_open_when_its_state_is_lost_ends_when_another_begins() -> None:
    """Nobody would end it any more."""
    before = one(None, entries((7, 2.0, ALERT | OPEN)))
    first, second = advance(before, "pump", entries((9, 3.0, ALERT | OPEN)), CHANNELS, was_open=False).incidents
    assert (first.n, first.end_ms) == (7, 7000)
    assert (second.n, second.is_open) == (9, True)


def test_what_a_person_closed_goes_on_with_no_reading() -> None:
    before = msgspec.structs.replace(one(None, entries((7, 2.0, ALERT | OPEN))), end_ms=7000, closed=True)
    assert advance(before, "pump", entries((9, 3.0, OPEN)), CHANNELS, was_open=False) == ([before], [])
