"""From results and injected faults to the demo's table and verdict."""

from dataclasses import replace

from gatewatch.service.demo.evaluation import FALSE_ALARMS_PER_STREAM_WEEK, LASTING_READINGS, Scored, evaluate
from gatewatch.service.demo.station import MINUTE_MS, Fault

LEAK = Fault("pump-1", "leak", ("pressure", "flow"), 1_000 * MINUTE_MS, 1_300 * MINUTE_MS)
SET_POINT = Fault("pump-1", "new set-point", ("flow",), 3_000 * MINUTE_MS, 3_600 * MINUTE_MS, is_fault=False)


def week(anomalous: dict[int, str], stream: str = "pump-1", warm_up: int = 0) -> list[Scored]:
    """A week of results: {minute: channel named} are anomalous, the others normal."""
    results = []
    for minute in range(7 * 1_440):
        channel = anomalous.get(minute)
        status = "warming_up" if minute < warm_up else "anomalous" if channel else "normal"
        shares = {channel: 0.7, "temperature": 0.3} if channel else {"temperature": 1.0}
        results.append(Scored(stream, minute * MINUTE_MS, status, 2.0 if channel else 0.5, "event", shares))
    return results


def test_a_fault_found_in_time_on_its_channel_is_as_it_should_be() -> None:
    evaluation = evaluate(week({1_004: "flow", 1_005: "current"}), [LEAK])

    (detection,) = evaluation.detections
    assert detection.delay_minutes == 4
    assert detection.found is not None
    assert detection.found.channel == "flow"
    assert detection.largest_score == 2.0
    assert detection.alarming_readings == 2
    assert evaluation.false_alarms == []
    assert evaluation.problems == []


def test_a_fault_that_is_not_found_is_a_problem() -> None:
    evaluation = evaluate(week({}), [LEAK])

    assert evaluation.detections[0].found is None
    assert evaluation.detections[0].delay_minutes is None
    assert evaluation.problems == ["pump-1, leak: not detected"]


def test_a_fault_found_too_late_is_a_problem() -> None:
    assert evaluate(week({1_031: "flow"}), [LEAK]).problems == [
        "pump-1, leak: detected after 31 minutes; expected within 30"
    ]


def test_naming_another_channel_is_a_problem() -> None:
    assert evaluate(week({1_001: "vibration"}), [LEAK]).problems == [
        "pump-1, leak: names vibration; expected pressure or flow"
    ]


def test_an_alarm_on_another_stream_does_not_count_as_detection() -> None:
    results = week({}) + week({1_004: "flow"}, stream="pump-2")
    evaluation = evaluate(results, [LEAK])

    assert evaluation.problems == ["pump-1, leak: not detected"]
    assert [alarm.first.stream for alarm in evaluation.false_alarms] == ["pump-2"]


def test_false_alarms_join_when_they_lie_close() -> None:
    evaluation = evaluate(week({100: "flow", 110: "flow", 139: "flow", 170: "flow", 5_000: "flow"}), [])

    assert [(alarm.first.timestamp_ms // MINUTE_MS, alarm.readings) for alarm in evaluation.false_alarms] == [
        (100, 3),
        (170, 1),
        (5_000, 1),
    ]
    assert evaluation.stream_weeks == 1
    assert evaluation.false_alarms_per_stream_week == 3
    assert evaluation.problems == [
        f"3.0 false alarms per stream and week; the budget is {FALSE_ALARMS_PER_STREAM_WEEK:g}"
    ]


def test_a_repair_belongs_to_its_fault_for_half_an_hour() -> None:
    seen = {1_004: "flow", 1_300: "flow", 1_329: "flow"}
    assert evaluate(week(seen), [LEAK]).false_alarms == []
    assert len(evaluate(week({**seen, 1_330: "flow"}), [LEAK]).false_alarms) == 1


def test_warming_up_and_faults_are_not_counted_as_normal_time() -> None:
    evaluation = evaluate(week({1_004: "flow"}, warm_up=100), [LEAK])
    assert evaluation.stream_weeks == (7 * 1_440 - 100 - 300 - 30) / (7 * 1_440)


def test_what_is_normal_must_not_raise_a_lasting_alarm() -> None:
    short = {3_100 + minute: "flow" for minute in range(LASTING_READINGS - 1)}
    lasting = {3_100 + minute: "flow" for minute in range(LASTING_READINGS)}

    tolerated = evaluate(week(short), [SET_POINT])
    assert tolerated.problems == []
    assert len(tolerated.false_alarms) == 1  # yet it counts as a false alarm

    assert evaluate(week(lasting), [SET_POINT]).problems == [
        f"pump-1, new set-point: an alarm of {LASTING_READINGS} readings, though this is normal"
    ]


def test_detections_are_listed_in_order_of_time() -> None:
    later = replace(LEAK, kind="spike", start_ms=2_000 * MINUTE_MS, end_ms=2_001 * MINUTE_MS)
    evaluation = evaluate(week({1_001: "flow", 2_000: "flow"}), [later, LEAK])
    assert [detection.fault.kind for detection in evaluation.detections] == ["leak", "spike"]


def test_without_results_nothing_is_detected() -> None:
    evaluation = evaluate([], [LEAK])
    assert evaluation.false_alarms_per_stream_week == 0
    assert evaluation.problems == ["pump-1, leak: not detected"]
