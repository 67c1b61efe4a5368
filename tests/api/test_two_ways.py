"""What a connection answers itself equals what the app answers, for any shape of request."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.whole_path import serving

START_S = 1_760_000_000
TYPES = [
    None,
    "application/json",
    "application/json; charset=utf-8",
    "Application/JSON",
    "text/plain",
    "application/x-www-form-urlencoded",
    "application/x-ndjson",
    "application/jsonl; a=b",
    "image/png",
]
NAME = "w000"
"""Stands for a stream that is another one for each way and each request; as long as what it is replaced by."""

numbers = st.one_of(st.floats(-100, 100), st.integers(-3, 3), st.none(), st.sampled_from([1e39, "7", True, [1]]))
values = st.one_of(
    st.dictionaries(st.sampled_from(["pressure", "flow", "speed", "é"]), numbers, max_size=3),
    st.floats(-9, 9),
    st.none(),
)
names = st.sampled_from([NAME, NAME + "b", NAME + "c", "", "a b", "-", "x" * 200])
times = st.one_of(
    st.integers(START_S, START_S + 50),
    st.floats(START_S, START_S + 50).map(lambda moment: round(moment, 3)),
    st.just("2026-05-04T10:00:00Z"),
    st.sampled_from(["noon", -1, 4e12, True]),
)
items: st.SearchStrategy[Any] = st.one_of(
    st.fixed_dictionaries(
        {"values": values, "timestamp": times},
        optional={"stream": names, "seq": st.one_of(st.integers(0, 9), st.just(-1), st.just(2**60)), "more": st.none()},
    ),
    st.fixed_dictionaries(
        {"stream": names, "values": st.fixed_dictionaries({"flow": st.floats(0, 9)}), "timestamp": times}
    ),
    st.sampled_from([7, None, [], {}]),
)


@st.composite
def bodies(draw: st.DrawFn) -> str:
    """An array, an object, lines, or something else."""
    found = draw(st.lists(items, max_size=5))
    form = draw(st.sampled_from(["array", "lines", "object", "cut", "other"]))
    if form == "lines":
        return draw(st.sampled_from(["\n", "\r\n", "\n\n"])).join(map(json.dumps, found))
    if form == "object":
        return json.dumps(draw(items), indent=draw(st.sampled_from([None, 1])))
    if form == "other":
        return draw(st.sampled_from(["", " ", "[", "{}", "[]", "NaN", "\x00", "[[[[", "{} {}", "[1] [2]", "é"]))
    text = json.dumps(found, separators=draw(st.sampled_from([(",", ":"), (" , ", " : ")])))
    return text[: draw(st.integers(0, len(text)))] if form == "cut" else text


@pytest.fixture(scope="module")
def url(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(artefact, tmp_path_factory.mktemp("ways")) as (url, _):
        yield url


_requests = itertools.count(100)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies(), media=st.sampled_from(TYPES), stream=st.one_of(st.none(), names.filter(lambda n: " " not in n)))
def test_both_ways_answer_alike(url: str, body: str, media: str | None, stream: str | None) -> None:
    """A query sends a request past the short way, and means nothing."""
    number = next(_requests)
    replies: list[tuple[Any, ...]] = []
    with httpx2.Client() as client:
        for way, query in (("f", ""), ("s", "?")):
            own = f"{way}{number:03d}"
            path = "/v1/readings" if stream is None else f"/v1/streams/{stream.replace(NAME, own)}/readings"
            headers = {} if media is None else {"content-type": media}
            content = body.replace(NAME, own).encode()
            reply = client.post(f"{url}{path}{query}", content=content, headers=headers)
            assert int(reply.headers["content-length"]) == len(reply.content)
            kept = {name: reply.headers.get(name) for name in ("content-type", "retry-after", "allow")}
            replies.append((reply.status_code, kept, reply.text.replace(own, NAME)))
    assert replies[0] == replies[1]
