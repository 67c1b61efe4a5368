"""Mutated bodies: whatever comes, no 5xx, an answer that is JSON, and a stream that stays sound."""

from __future__ import annotations

import json
import os
import random
import re
from typing import Any

from starlette.testclient import TestClient

from tests.conftest import post, readings

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "2000"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))

PATHS = ("/v1/readings", "/v1/streams/a/readings", "/v1/streams/%00/readings")
BODIES = (
    b'[{"stream":"a","timestamp":1700000000,"seq":1,"values":{"pressure":3.1,"flow":null}},'
    b'{"stream":"b","values":{"pressure":1}}]',
    b'{"stream":"c","values":{"flow":-0.0},"timestamp":"2023-01-01T00:00:00Z"}',
    b'{"stream":"a","values":{}}\n{"stream":"b","seq":3,"values":{"flow":1e30}}\n',
)
TOKENS = (
    b"NaN", b"-Infinity", b"1e400", b"1e39", b"-1e39", b"null",
    b"true", b"[]", b"{}", b'""', b'"\\ud800"', b'"\\u0000"',
    b"-0", b"9" * 400, b"1e-400", b"\xff", b"\x00", b'"a/b"', b'"' + b"x" * 10_000 + b'"', b"[[[[[[", b"1.5", b"-1",
    b"9007199254740993", b"18446744073709551616", b'"2026-02-30T00:00:00Z"', b'"9999-12-31T23:59:59Z"', b"1e15",
    b'"0001-01-01T00:00:00+14:00"', b"4102444800", b'"values"', b'"stream"', b'{"pressure":"1"}', b"1" * 25,
)  # fmt: skip
TOKEN = re.compile(rb'"[^"]*"|-?[\d.e+]+|null|true|\{|\}|\[|\]')


def mutated(body: bytes, rng: random.Random) -> bytes:
    changed = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        at, kind = rng.randrange(len(changed) + 1), rng.random()
        if kind < 0.4:
            spans = [match.span() for match in TOKEN.finditer(changed)]
            start, stop = rng.choice(spans) if spans else (at, at)
            changed[start:stop] = rng.choice(TOKENS)
        elif kind < 0.6:
            changed[at:at] = rng.choice(TOKENS)
        elif kind < 0.8:
            del changed[at : at + rng.randint(1, 5)]
        else:
            changed[at : at + 1] = bytes([rng.randrange(256)])
    return bytes(changed)


def refuse(name: str) -> Any:
    raise ValueError(name)


def test_no_body_is_a_server_error_and_none_harms_a_stream(client: TestClient) -> None:
    """The long form: FUZZ_REQUESTS=1000000 FUZZ_SEED=1 python -m pytest tests/test_fuzz.py"""
    rng = random.Random(SEED)
    before = post(client, readings("witness", 10))
    for number in range(REQUESTS):
        body = mutated(rng.choice(BODIES), rng)
        headers = {"content-type": rng.choice(("application/json", "application/x-ndjson"))}
        if rng.random() < 0.03:
            headers["content-encoding"] = "gzip"
        reply = client.post(rng.choice(PATHS), content=body, headers=headers)
        where = f"FUZZ_SEED={SEED}, request {number}: {body[:300]!r}"
        assert reply.status_code in (200, 400, 413, 415), where
        texts = reply.text.splitlines() if "ndjson" in reply.headers["content-type"] else [reply.text]
        for text in texts:
            json.loads(text, parse_constant=refuse)
    again = post(client, readings("witness", 10))
    assert again == [{**result, "replayed": True} for result in before]
