"""A far value that comes again and again, exactly the same, is named; what a machine does is not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.recordings.codes import Code, find_codes
from gatewatch.models.recordings.recording import Recording


def recording(values: NDArray[np.float64]) -> Recording:
    times = 1_700_000_000_000 + 60_000 * np.arange(len(values), dtype=np.int64)
    return Recording("s", ("a",), times, values[:, None])


def noise(rows: int = 4000, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(7.5, 0.1, rows)


def test_codes_are_named_with_how_often_they_come() -> None:
    values = noise()
    values[100:4000:130] = -9999
    values[[50, 700, 900]] = 32767
    assert find_codes([recording(values)]) == [Code("a", -9999.0, 30), Code("a", 32767.0, 3)]
    values[200:900] = -9999  # long runs of it, too
    assert Code("a", -9999.0, 724) in find_codes([recording(values)])


def test_codes_are_counted_over_all_recordings_of_a_stream() -> None:
    parts = [noise(seed=seed) for seed in range(3)]
    for part in parts:
        part[77] = -127
    assert find_codes(list(map(recording, parts))) == [Code("a", -127.0, 3)]


def test_what_a_machine_does_is_no_code() -> None:
    off, switch, saturated, spikes = noise(), np.tile([0.0, 1.0], 2000), noise(), noise()
    off[1000:1500] = 0
    saturated[saturated > 7.65] = 7.65
    spikes[::500] = 50 + np.arange(8)
    rare = np.where(np.arange(4000) % 400 == 0, 9.0, np.tile([1.0, 2.0], 2000))
    duty = np.where(np.arange(4000) % 1000 < 200, noise().round(2) + 50, noise() / 100)
    for values in (duty, off, switch, saturated, spikes, rare, noise(), np.full(4000, np.nan)):
        assert find_codes([recording(values)]) == []


def test_a_code_known_as_one_may_be_most_of_a_channel_and_near_its_values() -> None:
    street = noise() * 100
    street[np.arange(4000) % 10 != 0] = -200
    assert find_codes([recording(street)]) == [Code("a", -200.0, 3600)]
    cold = noise() * 30 - 400
    cold[::100] = -200
    assert find_codes([recording(cold)]) == []


def test_what_a_channel_does_that_mostly_stands_is_no_code() -> None:
    valve = np.zeros(4000)
    valve[1000:1400] = np.random.default_rng(0).integers(20, 45, 400) / 100
    assert find_codes([recording(valve)]) == []
