"""Bodies to readings: what is taken, and what is rejected with which words, reading by reading."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gatewatch.service.core.outcomes import Refused, format_time
from gatewatch.service.core.readings import Readings, batch_of
from gatewatch.service.doors.json_door import ARRAY, OBJECT
from gatewatch.service.doors.json_results import JsonEncoder
from gatewatch.service.doors.ndjson_door import LINES
from gatewatch.service.doors.reading_decoder import ReadingDecoder
from gatewatch.service.errors import BadRequest, TooLarge
from tests.support.scorer import decode, parts_of

CHANNELS = ("pressure", "flow")
NOW_MS = 1_800_000_000_000


class Model:
    """What a door asks of a model."""

    decoder = ReadingDecoder(CHANNELS, 60_000, 100)


def checked(body: bytes | str, lines: bool = False) -> list[Readings | Refused]:
    """Each reading of a body: accepted (one row), or its rejection."""
    raw = body if isinstance(body, bytes) else body.encode()
    decoded, _ = decode(Model, raw, lines, now_ms=NOW_MS)
    rows = iter(range(len(decoded.readings)))
    return [decoded.refused.get(at) or decoded.readings.rearranged([next(rows)]) for at in range(len(decoded))]


def error_of(reading: str) -> str:
    """The rejection of a reading that stands between two good ones, which must stay unharmed."""
    good = '{"stream": "a", "values": {"pressure": 1}}'
    before, result, after = checked(f"[{good}, {reading}, {good}]")
    assert isinstance(before, Readings)
    assert isinstance(after, Readings)
    assert isinstance(result, Refused)
    assert result.status == "rejected"
    assert result.error
    JsonEncoder().refusal(result)
    return result.error


@pytest.mark.parametrize(
    ("reading", "words"),
    [
        ('{"stream": "a", "values": {"pressure": NaN}}', "values.pressure is NaN, which is no number in JSON"),
        ('{"stream": "a", "values": {"pressure": -Infinity}}', "values.pressure is -Infinity, which is no number"),
        ('{"stream": "a", "values": {"pressure": 1e400}}', "values.pressure is 1e400, which is no number"),
        ('{"stream": "a", "values": {"pressure": 1e39}}', "values.pressure is 1e+39, more than a float32 can hold"),
        ('{"stream": "a", "values": {"pressure": 1%s}}' % ("0" * 400), "values.pressure is more than a float32"),
        ('{"stream": "a", "values": {"pressure": true}}', "values.pressure is true or false (True); expected a number"),
        ('{"stream": "a", "values": {"pressure": "3"}}', "values.pressure is text ('3'); expected a number or null"),
        ('{"stream": "a", "values": {"pressure": [1]}}', "values.pressure is an array; expected a number or null"),
        (
            '{"stream": "a", "values": {"speed": 1}}',
            "values.speed is not a channel of this model; expected pressure, flow",
        ),
        ('{"stream": "a", "values": 5}', "values is one number; this model has 2 channels"),
        ('{"stream": "a", "values": null}', "values is null"),
        ('{"stream": "a"}', "values is absent"),
        ('{"stream": "a", "value": 5, "values": {"flow": 1}}', "'value' is not a field of a reading"),
        ('{"values": {"flow": 1}}', "stream is ''; expected 1 to 128 letters"),
        ('{"stream": "a/b", "values": {"flow": 1}}', "stream is 'a/b'; expected"),
        ('{"stream": "a\\u0000b", "values": {"flow": 1}}', "stream is 'a\\x00b'; expected"),
        ('{"stream": "\\ud800", "values": {"flow": 1}}', "stream is '\\ud800'; expected"),
        ('{"stream": "%s", "values": {"flow": 1}}' % ("x" * 10_000), "expected 1 to 128 letters"),
        ('{"stream": 7, "values": {"flow": 1}}', "stream is a number (7); expected text"),
        (
            '{"stream": "a", "values": {"flow": 1}, "timestamp": "yesterday"}',
            "timestamp is 'yesterday'; expected RFC 3339",
        ),
        ('{"stream": "a", "values": {"flow": 1}, "timestamp": "2026-05-04T10:00:00"}', "expected RFC 3339 with zone"),
        ('{"stream": "a", "values": {"flow": 1}, "timestamp": "2026-13-04T10:00:00Z"}', "there is no such time"),
        (
            '{"stream": "a", "values": {"flow": 1}, "timestamp": 1800000000000}',
            "s ahead of this service's clock; at most 60 s",
        ),
        ('{"stream": "a", "values": {"flow": 1}, "timestamp": -1}', "expected Unix seconds, 0 or later"),
        ('{"stream": "a", "values": {"flow": 1}, "timestamp": NaN}', "timestamp is NaN"),
        ('{"stream": "a", "values": {"flow": 1}, "timestamp": %s}' % ("9" * 400), "expected Unix seconds, 0 or later"),
        ('{"stream": "a", "values": {"flow": 1}, "timestamp": false}', "timestamp is true or false"),
        ('{"stream": "a", "values": {"flow": 1}, "seq": -1}', "seq is -1; expected 0 to 2^53"),
        ('{"stream": "a", "values": {"flow": 1}, "seq": 1.5}', "seq is a number (1.5); expected a whole number"),
        ('{"stream": "a", "values": {"flow": 1}, "seq": 99999999999999999999999}', "expected 0 to 2^53"),
        ("17", "a reading is an object; this is a number (17)"),
        ("[]", "a reading is an object; this is an array"),
    ],
)
def test_a_bad_reading_is_rejected_by_name_and_its_neighbours_are_not(reading: str, words: str) -> None:
    assert words in error_of(reading)


def test_values_come_in_the_models_order_with_gaps_as_nan() -> None:
    (reading,) = checked('{"stream": "a", "values": {"flow": 2, "pressure": null}, "seq": 3, "timestamp": 1.25}')
    assert isinstance(reading, Readings)
    assert reading.values == [(None, 2.0)]
    assert (reading.seqs, reading.timestamps_ms) == ([3], [1250])
    batch = batch_of(parts_of(reading))
    np.testing.assert_array_equal(batch.values, [[np.nan, 2]])


def test_minus_zero_is_zero_and_denormals_stay_finite() -> None:
    minus, plus = checked('[{"stream": "a", "values": {"flow": -0.0}}, {"stream": "a", "values": {"flow": 0}}]')
    assert isinstance(minus, Readings)
    assert isinstance(plus, Readings)
    written = [batch_of(parts_of(one)).values.tobytes() for one in (minus, plus)]
    assert written[0] == written[1]
    (tiny,) = checked('[{"stream": "a", "values": {"flow": 1e-310}}]')
    assert isinstance(tiny, Readings)
    assert tiny.values == [(None, 1e-310)]


@pytest.mark.parametrize("text", ["2026-05-04T10:00:00Z", "2026-05-04t12:00:00.000+02:00", "2026-05-04 10:00:00z"])
def test_rfc_3339_in_its_forms(text: str) -> None:
    (reading,) = checked(f'[{{"stream": "a", "values": {{"flow": 1}}, "timestamp": "{text}"}}]')
    assert isinstance(reading, Readings)
    assert format_time(reading.timestamps_ms[0]) == "2026-05-04T10:00:00Z"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is empty"),
        (b"  \n", "the body is empty"),
        (b"hello", "the body is not JSON"),
        (b"[1, 2", "the body is not JSON"),
        (b'"text"', "the body is text ('text'); expected an array of readings"),
        (b"\xff\xfe[", "the body is not JSON"),
        (b"\xff\xfe", "the body is empty"),
        (b"[" * 100_000, "the body is"),
        (b"9" * 10_000, "the body is"),
    ],
)
def test_a_body_that_is_none_is_refused_as_a_whole(body: bytes, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        checked(body)
    assert words in str(caught.value)


def test_a_bad_line_of_ndjson_is_rejected_alone() -> None:
    good = '{"stream": "a", "values": {"flow": 1}}'
    first, bad, last = checked(f"{good}\n{{oops\n\n{good}\n", lines=True)
    assert isinstance(first, Readings)
    assert isinstance(last, Readings)
    assert isinstance(bad, Refused)
    assert bad.error is not None
    assert bad.error.startswith("line 2: ")


def test_too_many_readings_are_refused() -> None:
    with pytest.raises(TooLarge, match="101 readings in one request; at most 100"):
        checked(b"[" + b",".join([b'{"stream":"a","values":1}'] * 101) + b"]")


def test_results_go_out_in_the_form_of_the_request() -> None:
    text = JsonEncoder().refusal(Refused("a", None, None, "late", "too late"))
    assert ARRAY.join([text, text]) == f"[{text},{text}]".encode()
    assert LINES.join([text, text]) == f"{text}\n{text}\n".encode()
    assert OBJECT.join([text]).startswith(b'{"stream":"a"')


def test_a_channel_may_have_a_name_that_json_escapes() -> None:
    """A query of Prometheus is one."""
    names = ('rate(bytes{device="eth0"}[5m])', "flow", "a\\b", "tab\t")

    class Queries:
        decoder = ReadingDecoder(names, 60_000, 100)

    one = {"stream": "a", "values": dict(zip(names, (1.0, 2.0, 3.0, None), strict=True))}
    for body in (one, [one] * 2, [one] * 20):
        decoded, _ = decode(Queries, json.dumps(body).encode(), False, now_ms=NOW_MS)
        assert not decoded.refused
        assert {tuple(row) for row in np.array(decoded.readings.values)[:, :3].tolist()} == {(1.0, 2.0, 3.0)}
    decoded, _ = decode(Queries, b'{"values": {"tab\\t": 1, "else": 1}}', False, now_ms=NOW_MS)
    assert "else" in str(decoded.refused[0])
