"""Figures mean what their names say, and an interval claims no more than the streams can show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gatewatch.models.detectors.detector import ANOMALOUS, NORMAL, WARMING_UP
from gatewatch.models.detectors.incidents import JOIN_READINGS, OPEN_READINGS
from gatewatch.models.errors import EvaluationError
from gatewatch.models.evaluation.evaluate import WEEK_S, Scored, evaluate
from gatewatch.models.recordings.labels import Span

MINUTE_MS = 60_000


def scored(alarms: list[int], events: list[Span], rows: int = 2000, stream: str = "a", warm_up: int = 0) -> Scored:
    """A stream of one reading a minute with alarms in these rows."""
    status = np.full(rows, NORMAL, np.uint8)
    status[alarms] = ANOMALOUS
    status[:warm_up] = WARMING_UP
    score = np.random.default_rng(len(alarms)).random(rows)
    score[alarms] += 1
    return Scored(stream, np.arange(rows, dtype=np.int64) * MINUTE_MS, score, status, events)


def values(*streams: Scored) -> dict[str, float]:
    return {name: figure.value for name, figure in evaluate(streams, 10).figures.items()}


def test_precision_and_recall_count_readings() -> None:
    found = values(scored([*range(100, 106), 900, 901], [(100, 109), (500, 504)]))
    assert found["precision"] == pytest.approx(6 / 8)
    assert found["recall"] == pytest.approx(6 / 15)
    assert found["F1"] == pytest.approx(2 * 6 / (2 * 6 + 2 + 9))


def test_one_alarm_finds_an_event_and_false_alarms_that_belong_together_count_once() -> None:
    apart = 900 + JOIN_READINGS
    found = values(scored([105, 900, apart, apart + JOIN_READINGS + 1], [(100, 109), (500, 504)]))
    assert found["event recall"] == pytest.approx(1 / 2)
    assert found["event precision"] == pytest.approx(1 / 3)  # two false alarms: the first two alarms are one
    assert found["event F1"] == pytest.approx(2 / (2 + 2 + 1))


def test_an_alarm_that_outlasts_its_event_is_no_false_alarm_but_a_later_one_is() -> None:
    lasting = [109, 112, 112 + OPEN_READINGS]
    assert values(scored(lasting, [(100, 110)]))["event precision"] == 1
    assert values(scored([*lasting, lasting[-1] + OPEN_READINGS + 1], [(100, 110)]))["event precision"] == 1 / 2


def test_false_alarms_are_counted_over_the_weeks_of_normal_readings() -> None:
    found = values(scored([105, 900], [(100, 109)]), scored([], [], stream="b"))
    assert found["false alarms per stream and week"] == pytest.approx(1 / ((2000 - 10 + 2000) * 60 / WEEK_S))


def test_the_delay_is_the_median_over_the_events_found() -> None:
    found = values(scored([103, 507, 1009], [(100, 109), (500, 509), (1000, 1009), (1500, 1509)]))
    assert (found["delay (readings)"], found["delay (s)"]) == (7, 7 * 60)
    assert np.isnan(values(scored([1], [(100, 109)]))["delay (readings)"])


def test_a_warm_up_is_not_judged() -> None:
    late = scored([100, 900], [(10, 20), (45, 60), (880, 920)], warm_up=50)
    found = evaluate([late], 10)
    assert (found.events, found.events_judged, found.readings, found.judged) == (3, 2, 2000, 1950)
    assert found.figures["recall"].value == pytest.approx(1 / (11 + 41))
    assert found.figures["event recall"].value == 1 / 2


def test_vus_pr_is_the_mean_of_the_streams_that_have_events() -> None:
    streams = [scored([105], [(100, 109)]), scored([7], [(600, 609)], stream="b"), scored([3], [], stream="c")]
    found = evaluate(streams, 10)
    alone = [found.streams[name]["VUS-PR"] for name in "abc"]
    assert found.figures["VUS-PR"].value == pytest.approx(np.mean(alone[:2]))
    assert np.isnan(alone[2])


def test_an_interval_holds_its_figure_and_narrows_with_more_streams() -> None:
    rng = np.random.default_rng(0)
    alarms = [sorted(rng.choice(2000, 40, replace=False).tolist()) for _ in range(6)]
    few = [scored(rows, [(100, 199), (900, 999)], stream=str(at)) for at, rows in enumerate(alarms)]
    again = [replace(one, stream=f"{one.stream}, {time}") for time in range(9) for one in few]
    found, many = evaluate(few, 10), evaluate([*few, *again], 10)
    for figure in many.figures.values():
        assert figure.low <= figure.value <= figure.high
    for name in ("precision", "recall", "VUS-PR", "event F1"):
        one, other = found.figures[name], many.figures[name]
        assert other.high - other.low < one.high - one.low


def test_one_stream_is_drawn_in_blocks_that_cut_no_event() -> None:
    long = scored([5100, 15_000], [(3_990, 5_010), (5_050, 5_200), (12_000, 12_050)], rows=20_000)
    found = evaluate([long], 10)
    assert found.parts == "48 blocks of one stream"  # of 50, two would begin in the first event
    assert found.figures["event recall"].low < 1 / 3 < found.figures["event recall"].high


def test_from_too_few_parts_no_interval_is_drawn() -> None:
    short = scored([105], [(100, 109)], rows=1500)
    for streams in ([short], [replace(short, stream=name) for name in "abcd"]):
        assert all(np.isnan([one.low, one.high]).all() for one in evaluate(streams, 10).figures.values())


def test_what_cannot_be_evaluated_is_said() -> None:
    with pytest.raises(EvaluationError, match="no event in 1 labelled streams"):
        evaluate([scored([1], [])])
    with pytest.raises(EvaluationError, match="all 1 events lie in a warm-up"):
        evaluate([scored([], [(3, 5)], warm_up=9)])
    with pytest.raises(EvaluationError, match="2 recordings, several of a stream a"):
        evaluate([scored([], [(3, 5)]), scored([], [(3, 5)])])
