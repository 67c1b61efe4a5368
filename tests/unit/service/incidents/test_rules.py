"""Which gate decides about a reading; hours and windows by the clocks of a time zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from gatewatch.models.detectors.detector import ANOMALOUS, NORMAL, REASONS
from gatewatch.service.core.layout import entry_dtype
from gatewatch.service.core.records import state_dtype
from gatewatch.service.incidents.rules import GATES, Hours, Rules, _local, counts, gate_of, mark
from gatewatch.service.policies.gates import Gate
from gatewatch.service.policies.policy import Policy, rules_of
from gatewatch.service.policies.windows import Window

CHANNELS = ("pressure", "flow")


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def rules(*gates: dict[str, Any], **windows: dict[str, Any]) -> Rules:
    made = rules_of(
        Policy(gates=[Gate(**gate) for gate in gates]),
        tuple(Window.model_validate(window).active(name) for name, window in windows.items()),
    )
    assert made is not None
    return made


def decided(
    own: Rules,
    values: tuple[float, float] = (9.0, 2.0),
    shares: tuple[float, float] = (0.9, 0.1),
    score: float = 2.0,
    reason: str = "event",
    at: str = "2026-05-04T10:00:00+00:00",
) -> str:
    """What decides about a reading that was expected at 4 and 2."""
    made = np.zeros(1, entry_dtype(2))
    made["score"], made["status"] = score, ANOMALOUS if score > 1 else NORMAL
    made["values"], made["mid"], made["half"] = values, (4.0, 2.0), (1.0, 0.5)
    made["attribution"], made["reason"], made["timestamp_ms"] = shares, REASONS.index(reason), ms(at)
    mark(made, [(0, own)], [CHANNELS], np.zeros(1, state_dtype(np.dtype([("readings", "<u4")]), 2)))
    gate = GATES[gate_of(made[0])]
    assert counts(made[0]) == (gate == "limit" or (score > 1 and gate in ("", "window")))
    assert made["reason"][0] & 0x0F == REASONS.index(reason)
    return gate


@pytest.mark.parametrize(
    ("gate", "value", "closed"),
    [
        ({"direction": "above"}, 9.0, ""),
        ({"direction": "above"}, 1.0, "direction"),
        ({"direction": "below"}, 9.0, "direction"),
        ({"absolute": 5}, 9.0, ""),
        ({"absolute": 5.1}, 9.0, "deviation"),
        ({"relative": 1.25}, 9.0, ""),
        ({"relative": 1.3}, 9.0, "deviation"),
        ({"absolute": 1, "relative": 2}, 9.0, "deviation"),
        ({"direction": "above", "low": 0.5}, 0.4, "limit"),
        ({"direction": "above", "low": 0.5}, 0.5, "direction"),
        ({"hours": "11:00-12:00", "high": 8}, 9.0, "limit"),
        ({"hours": "11:00-12:00"}, 9.0, "hours"),
        ({"hours": "10:00-11:00"}, 9.0, ""),
        ({"days": ["tue"]}, 9.0, "hours"),
        ({"channel": "valve*", "direction": "below", "high": 1}, 9.0, ""),
    ],
)
def test_a_gate_closes_on_what_does_not_matter_and_a_limit_opens(
    gate: dict[str, Any], value: float, closed: str
) -> None:
    assert decided(rules(gate), (value, 2.0)) == closed


def test_a_reading_is_gated_when_each_channel_is_that_is_strange_enough_by_itself() -> None:
    one, both = rules({"channel": "pressure", "direction": "below"}), rules({"direction": "below"})
    assert decided(one, (9.0, 9.0), (0.6, 0.4), score=3.0) == ""  # 1.8 and 1.2: flow by itself is enough
    assert decided(one, (9.0, 9.0), (0.6, 0.4), score=2.0) == "direction"  # 1.2 and 0.8
    assert decided(one, (9.0, 9.0), (0.4, 0.6), score=1.5) == ""  # none is enough: flow has most of it
    assert decided(both, (9.0, 9.0), (0.6, 0.4), score=3.0) == "direction"


def test_what_stands_still_or_is_missing_is_no_deviation_and_has_no_direction() -> None:
    own = rules({"direction": "below", "absolute": 100})
    assert decided(own, reason="still") == decided(own, (np.nan, 2.0), reason="absent") == ""
    assert decided(rules({"hours": "11:00-12:00"}), reason="still") == "hours"


def test_a_limit_counts_whatever_the_score_and_a_missing_value_is_not_outside() -> None:
    own = rules({"channel": "pressure", "low": 0.5, "high": 12}, {"channel": "*", "high": 11})
    assert decided(own, (0.4, 2.0), score=0.1) == decided(own, (11.5, 2.0), score=0.1) == "limit"
    assert decided(own, (np.nan, 2.0), score=0.1) == decided(own, (10.0, 2.0), score=0.1) == ""
    assert decided(own, (10.0, 11.5), score=0.1) == "limit"


@pytest.mark.parametrize(
    ("local", "inside"),
    [
        ("2026-03-28T23:30", True),  # Saturday night, begun on a Saturday
        ("2026-03-29T05:59", True),
        ("2026-03-29T06:00", False),
        ("2026-03-29T23:30", False),
        ("2026-03-28T05:00", False),
    ],
)
def test_hours_over_midnight_belong_to_the_day_on_which_they_begin(local: str, inside: bool) -> None:
    zone = ZoneInfo("Europe/Berlin")
    hours = Hours(zone, frozenset({5}), 22 * 60, 6 * 60)
    assert hours.has(round(datetime.fromisoformat(local).replace(tzinfo=zone).timestamp() * 1000)) == inside


def test_hours_go_by_the_clock_where_it_is_changed() -> None:
    """In Berlin clocks left out 02:00 to 03:00 on 2026-03-29, and showed it twice on 2026-10-25."""
    hours = Hours(ZoneInfo("Europe/Berlin"), frozenset(range(7)), 2 * 60, 3 * 60 + 30)
    minutes = range(0, 24 * 60 * 60_000, 60_000)
    passed = {}
    for day in ("2026-03-28", "2026-03-29", "2026-10-25"):
        midnight = ms(f"{day}T00:00:00+00:00")
        passed[day] = sum(hours.has(midnight + at) for at in minutes)
    assert passed == {"2026-03-28": 90, "2026-03-29": 30, "2026-10-25": 150}
    assert not hours.has(ms("2026-03-29T00:59:00+00:00"))
    assert hours.has(ms("2026-03-29T01:00:00+00:00"))


def test_a_window_is_between_its_times_within_its_hours_and_skips_what_it_says() -> None:
    once = {"start": "2026-05-04T09:00:00Z", "end": "2026-05-04T11:00:00+00:00"}
    weekly = {"days": ["mon"], "hours": "10:00-11:00", "start": "2026-05-05T00:00:00Z", "skip": "learning"}
    own = rules(once=once, weekly=weekly)
    at = {text: ms(f"2026-05-{text}:00+00:00") for text in ("04T08:59", "04T10:00", "04T11:00", "11T10:30", "12T10:30")}
    assert {text: own.window_at(time) for text, time in at.items() if own.window_at(time)} == {"04T10:00": "once"}
    assert [text for text, time in at.items() if not own.teaches(time)] == ["04T10:00", "11T10:30"]
    assert decided(own) == decided(own, score=0.1) == "window"
    assert decided(rules({"direction": "below"}, once=once)) == "direction"
    assert datetime.fromtimestamp(at["04T10:00"] / 1000, UTC).weekday() == 0


def test_many_windows_say_what_each_says_by_itself_at_any_time() -> None:
    """Also within a second in which one begins or ends, and where clocks are changed."""
    zones = ("Europe/Berlin", "America/New_York", "Asia/Kathmandu", "UTC")
    skips = ("judging", "learning", "both")
    start = datetime(2026, 3, 28, 20, tzinfo=UTC)
    sent = [
        {
            "hours": f"{at % 24:02}:{(7 * at) % 60:02}-{(at + 2) % 24:02}:30",
            "zone": zones[at % 4],
            "skip": skips[at % 3],
        }
        if at % 3
        else {
            "start": (start + timedelta(seconds=4000.25 * at)).isoformat(),
            "end": (start + timedelta(seconds=4000.25 * at + 90.5)).isoformat(),
            "skip": skips[(at // 3) % 3],
        }
        for at in range(24)
    ]
    for some in (sent, [one for one in sent if "hours" in one], sent[:1]):
        active = tuple(Window.model_validate(one).active(f"w{at}") for at, one in enumerate(some))
        rules, found = Rules(windows=active), set()
        edges = [round(one.begin_ms) for one in active if one.hours is None]
        times = [*range(round(start.timestamp() * 1000), round(start.timestamp() * 1000) + 86_400_000, 97_300)]
        for time_ms in [*times, *(edge + off for edge in edges for off in (-1, 0, 1, 90_499, 90_500, 90_501))]:
            on = [one for one in active if one.has(time_ms)]
            assert rules.window_at(time_ms) == next((one.name for one in on if one.judging), None)
            assert rules.teaches(time_ms) == (not any(one.learning for one in on))
            found.add((rules.window_at(time_ms), rules.teaches(time_ms)))
        assert len(found) >= 2


def test_windows_are_looked_through_once_for_all_readings_of_a_time() -> None:
    hours = [Window(hours="03:00-03:01", zone="Europe/Berlin").active(f"w{at}") for at in range(1000)]
    rules = Rules(windows=tuple(hours))
    assert rules.teaches(1_764_000_000_000)
    asked = _local.cache_info()
    for off_ms in range(100):
        assert rules.teaches(1_764_000_000_000 + off_ms)
        assert rules.window_at(1_764_000_000_000 + off_ms) is None
    assert _local.cache_info() == asked
