"""When a stream is silent: pure rules, held against streams of many kinds, and looks in virtual time."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from gatewatch.service.incidents.silence import (
    LEAST_MS,
    LEAST_READINGS,
    Head,
    Watch,
    decode,
    found_silent,
    look,
    more_patient,
    over,
    patience,
    patience_of,
)

K = 10.0
BEGIN_MS = 1_800_000_000_000
KEPT = 128
MINUTE_MS = 60_000
HOUR_MS, DAY_MS = 60 * MINUTE_MS, 24 * 60 * MINUTE_MS


def watched(arrivals: Sequence[int], until_ms: int, behind_ms: int = 0, times: Sequence[int] = ()) -> list[int]:
    """When a stream is found silent that sends at these times, and is looked at whenever it is due.

    A silence that a reading ends is over; the next one is another.

    Args:
        behind_ms: how far the times of its readings are behind.
        times: those of the readings, if they are something else altogether.
    """
    stamps = times or [at - behind_ms for at in arrivals]
    now_ms, before, found, sent, marked = arrivals[0], None, list[int](), 0, False
    while now_ms <= until_ms:
        came = sum(at <= now_ms for at in arrivals[sent:])
        marked &= not came
        sent += came
        head = Head(sent, stamps[sent - 1], marked)
        one = look(before, head, now_ms, BEGIN_MS, K)
        before, next_ms = one.watch, one.next_ms
        if one.quiet:
            allowed_ms = max(patience(before, K), patience_of(np.array(stamps[max(0, sent - KEPT) : sent]), K))
            if now_ms - before.heard_ms < allowed_ms:
                before, next_ms = more_patient(before, allowed_ms)
            else:
                found.append(now_ms)
                before, marked = before._replace(silent=True), True
        assert next_ms > now_ms
        before = decode(before.encode()) or before
        now_ms = next_ms
    return found


def regular(every_ms: int, count: int) -> list[int]:
    return [BEGIN_MS + every_ms * at for at in range(1, count + 1)]


@pytest.mark.parametrize("every_ms", [1000, 10_000, MINUTE_MS, HOUR_MS])
@pytest.mark.parametrize("behind_ms", [0, 1500, 40_000, 3 * HOUR_MS, -30_000])
def test_a_stream_that_stops_is_found_once_between_its_patience_and_half_as_long_again(
    every_ms: int, behind_ms: int
) -> None:
    arrivals = regular(every_ms, 400)
    allowed_ms = max(K * every_ms, LEAST_MS)
    (found,) = watched(arrivals, arrivals[-1] + 40 * int(allowed_ms), behind_ms)
    assert 0.85 * allowed_ms <= found - arrivals[-1] <= 1.5 * allowed_ms + 2 * every_ms


def test_it_is_found_again_when_it_stops_again() -> None:
    first, second = regular(10_000, 200), [BEGIN_MS + 20 * HOUR_MS + 10_000 * at for at in range(30_000)]
    found = watched([*first, *second], second[-1] + 20 * DAY_MS)
    assert len(found) == 2
    assert found[0] < second[0]
    assert found[1] > second[-1]


@pytest.mark.parametrize("seed", range(5))
def test_streams_that_are_polled_irregularly_are_not_silent(seed: int) -> None:
    """Waits that are exponential, in bursts, or of a tail so heavy that one in 5,000 is longer than all before by far;
    then a stop, which is found."""
    rng = random.Random(seed)
    kinds = {
        "exponential": [rng.expovariate(1 / 20_000) for _ in range(5000)],
        "heavy tail": [1000 * rng.paretovariate(1.8) for _ in range(5000)],
        "bursts": [2000 if rng.random() < 0.95 else rng.uniform(60_000, 300_000) for _ in range(5000)],
    }
    for kind, waits in kinds.items():
        arrivals = [BEGIN_MS + int(at) for at in np.cumsum(waits)]
        found = watched(arrivals, arrivals[-1] + 10 * DAY_MS)
        assert len(found) <= (3 if kind == "heavy tail" else 1), kind
        assert found[-1] > arrivals[-1], kind


def test_a_stream_that_sends_what_it_has_gathered_each_hour_is_not_silent_between() -> None:
    arrivals = [BEGIN_MS + HOUR_MS * hour for hour in range(1, 60) for _ in range(60)]
    times = [BEGIN_MS + HOUR_MS * (hour - 1) + MINUTE_MS * minute for hour in range(1, 60) for minute in range(60)]
    (found,) = watched(arrivals, arrivals[-1] + 10 * DAY_MS, times=times)
    assert arrivals[-1] + HOUR_MS < found


def test_a_stream_that_rests_each_night_is_told_of_once_and_then_known() -> None:
    arrivals = [BEGIN_MS + DAY_MS * day + MINUTE_MS * at for day in range(14) for at in range(8 * 60)]
    found = watched(arrivals, arrivals[-1])
    assert len(found) == 1
    assert found[0] < BEGIN_MS + DAY_MS


def test_a_stream_of_few_readings_and_a_recording_that_was_sent_are_not_judged() -> None:
    assert watched(regular(1000, LEAST_READINGS - 1), BEGIN_MS + 100 * DAY_MS) == []
    assert watched(regular(1000, 1000), BEGIN_MS + 100 * DAY_MS, behind_ms=400 * DAY_MS) == []


def test_time_in_which_nobody_looked_is_no_silence() -> None:
    watch = Watch(100, BEGIN_MS, BEGIN_MS, BEGIN_MS, 1000.0, 0.0, 0.0, 5)
    head, late_ms = Head(100, BEGIN_MS, silent=False), BEGIN_MS + HOUR_MS
    assert look(watch, head, late_ms, BEGIN_MS, K).quiet
    away = look(watch, head, late_ms, late_ms - 1000, K)
    assert not away.quiet
    assert away.next_ms == late_ms - 1000 + LEAST_MS


def test_a_stream_that_is_begun_anew_is_learned_anew_and_its_silence_is_over() -> None:
    watch = Watch(100, BEGIN_MS, BEGIN_MS, BEGIN_MS, 1000.0, 0.0, 0.0, 5, silent=True)
    found = look(watch, Head(3, BEGIN_MS, silent=False), BEGIN_MS + 1, BEGIN_MS, K)
    assert (found.watch.readings, found.watch.times, found.back) == (3, 0, True)


def test_a_silence_has_no_channels_and_its_score_grows_with_its_length() -> None:
    watch = Watch(100, BEGIN_MS, BEGIN_MS, BEGIN_MS, 10_000.0, 0.0, 0.0, 5)
    now_ms = BEGIN_MS + 105_000
    silence = found_silent("pump", "ab", watch, Head(100, BEGIN_MS, silent=False), now_ms, 100_000.0)
    assert (silence.id, silence.reason, silence.channels) == ("s100.pump", "silent", [])
    assert (silence.onset_ms, silence.last_ms, silence.peak_score) == (BEGIN_MS + 10_000, BEGIN_MS, 1.05)
    ended = over(silence, BEGIN_MS + 200_000)
    assert (ended.is_open, ended.end_ms, ended.peak_score) == (False, BEGIN_MS + 200_000, 2.0)
    assert over(silence, BEGIN_MS).end_ms == now_ms


def test_kept_times_ask_for_patience_and_clocks_that_were_set_back_for_none() -> None:
    assert patience_of(np.array([0, 1000, 2000, 3000]), K) == 10_000
    assert patience_of(np.array([0, 1000, 2000, 52_000]), K) == 150_000
    assert patience_of(np.array([5000, 1000, 2000, 3000]), K) == 10_000
    assert patience_of(np.array([5000]), K) == 0
    assert decode(b"foreign") is None
