"""Mutated requests, and what must hold of the answer to any of them."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Container
from typing import Any, Final, NamedTuple

ALLOWED: Final = {200, 204, 400, 403, 404, 405, 413, 415, 422}
JSON, LINES, PROBLEM = "application/json", "application/x-ndjson", "application/problem+json"


class Request(NamedTuple):
    """What an HTTP server hands to the app."""

    method: str
    path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    chunks: list[bytes]


class Reply(NamedTuple):
    """What comes back; the names of its headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


POSTED = ("/v1/readings", "/v1/readings", "/v1/streams/a/readings", "/v1/streams/b/readings")
PATHS = (
    *POSTED, "/v1/streams/\0/readings", "/v1/streams/a\r\nb/readings", "/v1/streams//readings",
    "/v1/streams/../readings", "/v1/streams/a/b/readings", "/v1/streams/\ufffd/readings",
    "/v1/streams/" + "n" * 5000 + "/readings", "/v1/streams", "/v1/streams/a", "/v1/streams/b", "/v1/streams/\0",
    "/v1/streams/*", "/v1/streams/a/history", "/v1/streams/{a}/history", "/v1/readings/", "/v1", "/livez", "/readyz",
    "//livez", "/nowhere",
)  # fmt: skip
METHODS = ("POST", "POST", "PUT", "PUT", "GET", "GET", "DELETE", "HEAD", "OPTIONS", "PATCH", "post", "\x7f")
BODIES = (
    b'[{"stream":"a","timestamp":1700000000,"seq":1,"values":{"pressure":3.1,"flow":null}},'
    b'{"stream":"b","values":{"pressure":1}}]',
    b'{"stream":"c","values":{"flow":-0.0},"timestamp":"2023-01-01T00:00:00Z"}',
    b'{"stream":"a","values":{}}\n{"stream":"b","seq":3,"values":{"flow":1e30}}\n',
    b'{"on_gap":"hold","reorder_window_s":60}',
)
TOKENS = (
    b"NaN", b"-Infinity", b"1e400", b"1e39", b"-1e39", b"null", b'"nan"', b'"inf"', b"\xef\xbb\xbf", b"\xff\xfe",
    b"true", b"[]", b"{}", b'""', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"', b"\xed\xa0\x80", b"\xc0\x80",
    b"-0", b"9" * 400, b"9" * 5000, b"1e-400", b"\xff", b"\x00", b'"a/b"', b'"a\\r\\nSET x y"', b'"a\r\nb"', b'"*"',
    b'"' + b"x" * 10_000 + b'"', b"[[[[[[", b"[" * 5000, b'{"values":' * 2000, b"1.5", b"-1", b"1e15", b"253402300800",
    b"9007199254740993", b"18446744073709551616", b"9223372036854775807", b'"2026-02-30T00:00:00Z"',
    b'"9999-12-31T23:59:59Z"', b'"0001-01-01T00:00:00+14:00"', b'"2016-12-31T23:59:60Z"', b"4102444800",
    b'"values"', b'"stream"', b'"stream":"z",', b'"values":{"flow":1},', b'"seq":0,"seq":1,', b'{"pressure":"1"}',
    b'{"pressure":1,"pressure":2}', b"1" * 25, b"\r\n", b"\n", b"\x0b", b"\xe2\x80\xa8", b"\x1e", b",", b"}", b"]",
)  # fmt: skip
TYPES = (
    b"application/json", b"application/json", b"application/x-ndjson", b"application/x-ndjson", b"application/jsonl",
    b"application/json; charset=utf-16", b"APPLICATION/JSON ;", b"text/json", b"", b"application/x-www-form-urlencoded",
    b"text/plain", b"\xff\xfe", b"application/json\r\nx: y", b"a" * 5000, b"multipart/form-data",
)  # fmt: skip
ENCODINGS = (b"gzip", b"GZIP ", b"identity", b"br", b"gzip, gzip", b"", b"\xff")
LENGTHS = (b"0", b"5", b"-1", b"99999999999999999999", b"9" * 5000, b"1e3", b"\xb2", b"0x10", b"")
QUERIES = (b"", b"", b"limit=0", b"limit=5&after=%ff%00", b"after=" + b"a" * 5000, b"limit=" + b"9" * 5000, b"&=&;")
TOKEN = re.compile(rb'"[^"]*"|-?[\d.e+]+|null|true|\{|\}|\[|\]')


def mutated(body: bytes, rng: random.Random) -> bytes:
    changed = bytearray(body)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 4))):
        at, kind = rng.randrange(len(changed) + 1), rng.random()
        if kind < 0.4:
            spans = [match.span() for match in TOKEN.finditer(changed)]
            start, stop = rng.choice(spans) if spans else (at, at)
            changed[start:stop] = rng.choice(TOKENS)
        elif kind < 0.6:
            changed[at:at] = rng.choice(TOKENS)
        elif kind < 0.8:
            del changed[at : at + rng.randint(1, 5)]
        elif kind < 0.98:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        else:
            changed *= 2
    return bytes(changed)


def compressed(body: bytes, rng: random.Random) -> bytes:
    """Gzip of a body, in one member or two, sometimes damaged."""
    cut = rng.randrange(len(body) + 1)
    members = gzip.compress(body, 1) if rng.random() < 0.7 else gzip.compress(body[:cut], 1) + gzip.compress(body[cut:])
    return members if rng.random() < 0.6 else mutated(members, rng)


def made(rng: random.Random) -> Request:
    """A request with something wrong in it, or nothing."""
    body = mutated(rng.choice(BODIES), rng)
    headers = [(b"content-type", rng.choice(TYPES) if rng.random() < 0.2 else rng.choice((JSON, LINES)).encode())]
    if rng.random() < 0.1:
        body = compressed(body, rng)
        headers.append((b"content-encoding", b"gzip"))
    elif rng.random() < 0.05:
        headers.append((b"content-encoding", rng.choice(ENCODINGS)))
    if rng.random() < 0.05:
        headers.append((b"content-length", rng.choice(LENGTHS)))
    if rng.random() < 0.05:
        headers.append((rng.choice((b"host", b"accept", b"x\xff", b"transfer-encoding")), mutated(b"a:1", rng)))
    if rng.random() < 0.03:
        headers = []
    rng.shuffle(headers)
    cut = rng.randrange(len(body) + 1) if rng.random() < 0.2 else len(body)
    chunks = [body[:cut], body[cut:]]
    if rng.random() < 0.85:
        return Request("POST", rng.choice(POSTED), b"", headers, chunks)
    return Request(rng.choice(METHODS), rng.choice(PATHS), rng.choice(QUERIES), headers, chunks)


def flaw(request: Request, reply: Reply, allowed: Container[int] = ALLOWED) -> str | None:
    """What is wrong with an answer, or None; `allowed` are its statuses."""
    if reply.status not in allowed:
        return "not one of the statuses allowed"
    media = reply.headers.get("content-type", "")
    texts = reply.body.splitlines() if media == LINES else [reply.body]
    if reply.status == 204 or (request.method == "HEAD" and reply.body == b""):
        return None if reply.body == b"" else "204 with a body"
    try:
        contents = [json.loads(text, parse_constant=refuse) for text in texts]
    except ValueError:
        return "not JSON"
    if reply.status >= 400:
        (content,) = contents
        fields = ("type", "title", "status", "detail")
        sound = media == PROBLEM and set(content) == set(fields) and content["status"] == reply.status
        return None if sound and len(reply.body) < 1000 else "not a short problem document"
    if request.method == "POST" and request.path.endswith("/readings"):
        for result in contents[0] if isinstance(contents[0], list) else contents:
            refused = result["status"] in ("rejected", "late", "conflict")
            if refused != (result["score"] is None) or refused != (result["error"] is not None):
                return f"an odd result: {result}"
    return None


def refuse(name: str) -> Any:
    raise ValueError(name)
