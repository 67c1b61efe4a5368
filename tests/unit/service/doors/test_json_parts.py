"""A body decoded in parts holds what it holds decoded at once, and costs no more than what is looked at."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
from typing import Any

import pytest

from gatewatch.service.doors.door import Context, StreamNames
from gatewatch.service.doors.json_door import OBJECT
from gatewatch.service.doors.json_parts import PART_BYTES
from gatewatch.service.doors.ndjson_door import LINES
from gatewatch.service.doors.reading_decoder import PART_READINGS, ReadingDecoder
from gatewatch.service.errors import BadRequest, TooLarge
from gatewatch.service.http.bodies import MEMBERS, Bodies
from tests.support.scorer import JSON, decode


class Model:
    """What a door asks of a model."""

    decoder = ReadingDecoder(("pressure", "flow"), 60_000, 10_000)


BAD = {
    "a text that looks like an end": {"stream": "},{", "values": {"flow": 1}},
    "objects inside": {"stream": "a", "tags": [{"a": 1}, {"b": 2}], "values": {"flow": 1}},
    "a channel that is none": {"stream": "a", "values": {"speed": 1}},
    "letters of several bytes": {"stream": "a", "é→😀": [1, "é→😀"], "values": {"flow": 1}},
    "NaN": {"stream": "a", "values": {"flow": float("nan")}},
    "a number": 7,
    "an array": [[1], [2]],
}


def good(number: int) -> dict[str, object]:
    return {"stream": f"s{number}", "seq": number, "values": {"pressure": number / 8, "flow": None}}


def decoded(body: str | bytes, lines: bool = False) -> list[object]:
    """The number of each reading in order, or the error of its rejection."""
    raw = body if isinstance(body, bytes) else body.encode()
    found, _ = decode(Model, raw, lines)
    seqs = iter(found.readings.seqs)
    return [found.refused[at].error if at in found.refused else next(seqs) for at in range(len(found))]


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("separators", [(",", ":"), (" ,\n\t", " : ")])
def test_bad_readings_in_a_large_body_are_rejected_alone(name: str, separators: tuple[str, str]) -> None:
    sent: list[object] = [good(number) for number in range(3000)]
    places = (0, 700, 701, 1500, 2999)
    for place in places:
        sent[place] = BAD[name]
    body = json.dumps(sent, ensure_ascii=False, separators=separators)
    assert len(body) > 2 * PART_BYTES
    found = decoded(body)
    assert [place for place, one in enumerate(found) if one != place] == list(places)
    assert {found[place] for place in places} == set(decoded(json.dumps([BAD[name]])))
    assert decoded("\n".join(map(json.dumps, sent)), lines=True) == found


def test_a_large_body_of_bad_readings_is_rejected_reading_by_reading() -> None:
    sent = [{**BAD["objects inside"], "seq": number} for number in range(3000)]  # type: ignore[dict-item]
    assert (
        decoded(json.dumps(sent))
        == ["'tags' is not a field of a reading; expected stream, timestamp, seq, values"] * 3000
    )


@pytest.mark.parametrize("lines", [False, True])
def test_a_reading_that_is_far_too_long_is_rejected_alone(lines: bool) -> None:
    long = {"stream": "a", "values": {f"c{number}": 1 for number in range(50_000)}}
    sent = [good(0), good(1), long, good(3), long]
    body = "\n".join(map(json.dumps, sent)) if lines else json.dumps(sent)
    first, second, rejected, last, again = decoded(body, lines)
    assert (first, second, last) == (0, 1, 3)
    for error in (rejected, again):
        assert f"it has more than {PART_BYTES} bytes" in str(error)


def test_a_part_takes_few_readings_apart() -> None:
    context: Any = Context(Model, StreamNames("t"), None, 0)  # type: ignore[arg-type]
    opened = JSON.open(b"[" + b",".join([b'{"a":1}'] * 9000) + b"]", context)
    parts = [len(part) for part in opened.parts]
    assert sum(parts) == 9000
    assert max(parts) == PART_READINGS


@pytest.mark.parametrize(
    "item",
    [b"NaN", b"1", b"{}", b"[]", b'"text"', b'{"a":1}', b'{"stream":"a","values":{"flow":1}}', b"x\n", b"{\n", b"1\n"],
)
def test_eight_megabytes_of_anything_cost_no_memory(item: bytes) -> None:
    """[NaN, NaN, ...] took 800 MB and held the service for 1.2 s."""
    lines = item.endswith(b"\n")
    count = 2**23 // (len(item) + 1)
    body = item * count if lines else b"[" + b",".join([item] * count) + b"]"
    tracemalloc.start()
    with pytest.raises(TooLarge, match="more than 10000 readings in one request"):
        decode(Model, body, lines)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**24


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 2**20,
        b"[" + b'"' + b"a" * 2**20 + b'"]',
        b'[{"stream":"' + b"a" * 2**20,
        b"[" + b'{"a":[' * 200_000,
        b"[1," + b" " * 2**20 + b"x]",
        b"[" + b'{"stream":"a","values":{"flow":1}},' * 9000 + b"]",
        b"[{}]" + b",[{}]" * 40_000,
    ],
)
def test_a_large_body_that_is_no_array_of_readings_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest, match="the body is"):
        decode(Model, body)


def test_space_is_no_reading() -> None:
    space = " " * 200_000
    some = " " * 20_000
    items = f"{some},{space}".join(json.dumps(good(number)) for number in range(9))
    assert decoded(f"{space}[{space}{items}{some}]{space}") == list(range(9))
    assert decoded(f"\n{json.dumps(good(0))}\n" + "\n" * 200_000 + json.dumps({"stream": 1}), lines=True)[0] == 0
    with pytest.raises(BadRequest, match="the body is empty"):
        decoded("\n" * 200_000, lines=True)


def test_one_reading_that_is_too_long_is_refused_unread() -> None:
    with pytest.raises(TooLarge, match="one value of more than 65536 bytes"):
        decoded(json.dumps({"stream": "a", "values": {str(number): 1 for number in range(100_000)}}))


def test_a_model_of_many_channels_takes_long_readings() -> None:
    channels = tuple(f"a channel with a long name {number}" for number in range(3000))

    class Wide:
        decoder = ReadingDecoder(channels, 60_000, 10_000)

    sent = [{"stream": "a", "values": dict.fromkeys(channels, 1.25)}] * 3
    assert len(json.dumps(sent[0])) > PART_BYTES
    assert len(decode(Wide, json.dumps(sent).encode())[0].readings) == 3


@pytest.mark.parametrize("between", ["\n", "\r\n", "\n\n"])
def test_objects_in_lines_are_lines_whatever_their_content_type(between: str) -> None:
    body = between.join(json.dumps(good(number)) for number in range(2000))
    sent, form = decode(Model, body.encode())
    assert (sent.readings.seqs, form) == (list(range(2000)), LINES)
    sent, form = decode(Model, (json.dumps(good(0)) + between + "{oops").encode())
    assert form is LINES
    assert "line " in sent.refused[1].error


def test_one_object_over_several_lines_is_one() -> None:
    assert decode(Model, json.dumps({**good(1), "more": 1}, indent=1).encode())[1] is OBJECT
    assert decode(Model, json.dumps(good(1), indent=1).encode())[1] is OBJECT


@pytest.mark.parametrize("body", ['{"values":1}{"values":1}', "[] []", '{"values":1} {"values":1}'])
def test_who_sends_several_values_is_told_how(body: str) -> None:
    with pytest.raises(BadRequest, match="one in each line with content-type application/x-ndjson"):
        decode(Model, body.encode())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_body_with_a_byte_order_mark_is_read(encoding: str) -> None:
    sent = [good(number) for number in range(3)]
    assert decoded(json.dumps(sent).encode(encoding)) == [0, 1, 2]
    assert decoded("\n".join(map(json.dumps, sent)).encode(encoding), lines=True) == [0, 1, 2]


def unzipped(compressed: bytes) -> tuple[bytes, int]:
    """A gzip body as it is read, and how often others had their turn meanwhile."""

    async def read() -> tuple[bytes, int]:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": compressed}

        beside = asyncio.create_task(others())
        with Bodies(2**23, 2**26).of({b"content-encoding": "gzip"}, "t") as body:
            content = await body.read(receive)
        beside.cancel()
        return content, turns

    return asyncio.run(read())


def test_what_is_decompressed_gives_others_their_turn() -> None:
    text = bytes(range(256)) * 2**15
    assert unzipped(gzip.compress(text))[0] == text
    for compressed in (gzip.compress(text), gzip.compress(b"") * MEMBERS, gzip.compress(b"a" * 1000) * 8000):
        assert unzipped(compressed)[1] >= 30
    padded = b"".join(gzip.compress(b"%d\n" % number) for number in range(3000)) + b"\0" * 100
    assert unzipped(padded)[0] == b"".join(b"%d\n" % number for number in range(3000))


def test_a_gzip_body_of_too_many_members_or_with_rubbish_behind_is_refused() -> None:
    with pytest.raises(BadRequest, match="more than 10000 members"):
        unzipped(gzip.compress(b"") * (MEMBERS + 1))
    for rubbish in (b"x", b"\0\0x", b"\x1f\x8b\x08\x08" + b"a" * 50_000):
        with pytest.raises(BadRequest):
            unzipped(gzip.compress(b"[]") + rubbish)
