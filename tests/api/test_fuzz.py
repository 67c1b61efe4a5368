"""Mutated requests: whatever comes, no 5xx, an answer that is what it says, and a stream that stays sound."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvloop
from fastapi import FastAPI
from starlette.testclient import TestClient

from gatewatch.models.artefact.repository import Repository
from gatewatch.models.detectors.canary import verify
from gatewatch.service.app import create_app
from gatewatch.service.settings import Settings
from tests.support.mutants import ALLOWED, JSON, LINES, PROBLEM, Reply, Request, flaw, made, refuse
from tests.support.replicas import Replica
from tests.support.samples import PATIENT_MS, post, readings
from tests.support.wire import exchange, read_reply, written

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "20000"))
SECONDS = float(os.environ.get("FUZZ_SECONDS", "600"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
TOGETHER = 64
"""Requests in flight at once."""

CALLERS = 16
FRAMING = {b"content-length", b"transfer-encoding", b"connection"}
"""Headers of which a mutant may have the service wait for more of a body."""


async def answered(app: FastAPI, request: Request) -> Reply:
    """Hand a request to the app as an HTTP server does."""
    sent = [
        {"type": "http.request", "body": chunk, "more_body": at + 1 < len(request.chunks)}
        for at, chunk in enumerate(request.chunks)
    ]
    messages: list[Any] = []
    coming = iter(sent)

    async def receive() -> Any:
        return next(coming, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        messages.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "root_path": "",
        "method": request.method, "path": request.path, "raw_path": request.path.encode(),
        "query_string": request.query,
        "headers": request.headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "state": {},
    }  # fmt: skip
    await app(scope, receive, send)
    start, *bodies = messages
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return Reply(start["status"], headers, b"".join(message.get("body", b"") for message in bodies))


async def fuzz(app: FastAPI) -> tuple[Counter[int], list[str]]:
    """Send mutated requests; returns how often each status came, and what was wrong."""
    rng, statuses, wrong = random.Random(SEED), Counter[int](), []
    until = time.monotonic() + SECONDS
    async with app.router.lifespan_context(app):
        for first in range(0, REQUESTS, TOGETHER):
            requests = [made(rng) for _ in range(min(TOGETHER, REQUESTS - first))]
            replies = await asyncio.gather(*(answered(app, request) for request in requests), return_exceptions=True)
            for number, (request, reply) in enumerate(zip(requests, replies, strict=True), first):
                if isinstance(reply, BaseException):
                    problem: str | None = repr(reply)
                else:
                    statuses[reply.status] += 1
                    problem = flaw(request, reply)
                if problem:
                    wrong.append(
                        f"FUZZ_SEED={SEED}, request {number}: {problem}: {str(request)[:600]} {str(reply)[:300]}"
                    )
            if time.monotonic() > until or len(wrong) > 50:
                break
    return statuses, wrong


def ruled(settings: Callable[..., Settings], folder: Path) -> str:
    """A repository with the default model, and a rule that names it: bodies are decoded as where there are several."""
    repository = Repository(str(folder / "models"), verify)
    repository.add("pumps", Path(settings().model), "test")
    repository.promote("pumps", "1", "test")
    with TestClient(create_app(settings(models=repository.url))) as client:
        rules = {"rules": [{"pattern": "*", "model": "pumps"}]}
        assert client.put("/v1/rules", json=rules).status_code == 200
    return repository.url


def test_no_request_is_a_server_error_and_none_harms_a_stream(settings: Callable[..., Settings]) -> None:
    """The long form: FUZZ_REQUESTS=1000000 FUZZ_SECONDS=900 FUZZ_SEED=1 python -m pytest -s tests/api/test_fuzz.py"""
    with TestClient(create_app(settings())) as client:
        before = post(client, readings("witness", 10))
    began = time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        statuses, wrong = runner.run(fuzz(create_app(settings(log_level="error"))))
    print(f"FUZZ_SEED={SEED}: {statuses.total()} requests in {time.monotonic() - began:.0f} s, {dict(statuses)}")
    assert wrong == []
    assert statuses[200] > statuses.total() / 4  # requests that are all refused at the door prove little
    with TestClient(create_app(settings())) as client:
        again = post(client, readings("witness", 10))
        assert again == [{**result, "replayed": True} for result in before]
        assert client.get("/readyz").status_code == 200


class Caller:
    """Sends requests on one connection after the other, as long as each of them is good for another one."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, request: Request) -> Reply | None:
        """The reply; None to what was no request, so that the connection just ended."""
        sent = written(request)
        if FRAMING & {name.lower() for name, _ in request.headers}:
            return await exchange(self._port, sent, eof=True, within_s=20)
        if self._writer is None or self._writer.is_closing():
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            self._writer.write(sent)
            reply = await asyncio.wait_for(read_reply(self._reader, sent.startswith(b"HEAD ")), 20)
        except (OSError, EOFError, ValueError, LookupError):
            await self.close()
            return None
        if reply.headers.get("connection") == "close":
            await self.close()
        return reply

    async def close(self) -> None:
        """End the connection, if there is one."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def fuzz_sockets(port: int, requests: int) -> tuple[Counter[int], list[str]]:
    """Send mutated requests to a service by its port; how often each status came, 0 for none, and what was wrong."""
    statuses, wrong = Counter[int](), list[str]()
    until = time.monotonic() + SECONDS

    async def send(number: int) -> None:
        rng, caller = random.Random(f"{SEED} {number}"), Caller(port)
        for _ in range(requests // CALLERS):
            request = made(rng)
            reply = await caller.ask(request)
            statuses[0 if reply is None else reply.status] += 1
            if reply is not None and (problem := flaw(request, reply, ALLOWED | {408, 429, 431})):
                wrong.append(f"FUZZ_SEED={SEED}: {problem}: {str(request)[:600]} {str(reply)[:300]}")
            if time.monotonic() > until or len(wrong) > 50:
                break
        await caller.close()

    await asyncio.gather(*map(send, range(CALLERS)))
    return statuses, wrong


def test_no_bytes_on_a_socket_are_a_server_error(
    settings: Callable[..., Settings], artefact: Path, tmp_path: Path
) -> None:
    """On the fast path and the other, with rules; the long form: as above, with -k socket."""
    own, log = settings(), tmp_path / "log"
    environment = {
        "GATEWATCH_MODEL": str(artefact), "GATEWATCH_MODELS": ruled(settings, tmp_path),
        "GATEWATCH_REDIS_URL": str(own.redis_url), "GATEWATCH_TENANT": own.tenant,
        "GATEWATCH_STORE_TIMEOUT_MS": str(PATIENT_MS), "GATEWATCH_LOG_LEVEL": "error",
    }  # fmt: skip
    replica = Replica(environment, log=log)
    try:
        replica.await_listening()
        began = time.monotonic()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            statuses, wrong = runner.run(fuzz_sockets(replica.port, REQUESTS // 10))
        print(f"FUZZ_SEED={SEED}: {statuses.total()} requests in {time.monotonic() - began:.0f} s, {dict(statuses)}")
        assert httpx2.get(f"http://127.0.0.1:{replica.port}/readyz").status_code == 200
    finally:
        replica.end()
    print(*wrong, log.read_text(), sep="\n")
    assert wrong == []
    assert statuses[200] > statuses.total() / 4
    assert statuses[0] < statuses.total() / 100


GOOD = '{"stream": "a", "values": {"flow": 1}}'
NASTY = {
    "nan": '{"stream": "a", "values": {"flow": NaN}}',
    "infinity": '{"stream": "a", "values": {"flow": Infinity}}',
    "-infinity": '{"stream": "a", "values": {"flow": -Infinity}}',
    "1e400": '{"stream": "a", "values": {"flow": 1e400}}',
    "1e39": '{"stream": "a", "values": {"flow": 1e39}}',
    "huge integer": '{"stream": "a", "values": {"flow": %s}}' % ("9" * 5000),
    "nan as text": '{"stream": "a", "values": {"flow": "nan"}}',
    "infinity as text": '{"stream": "a", "values": {"flow": "Infinity"}}',
    "nan time": '{"stream": "a", "values": {"flow": 1}, "timestamp": NaN}',
    "infinite time": '{"stream": "a", "values": {"flow": 1}, "timestamp": 1e400}',
    "overflowing time": '{"stream": "a", "values": {"flow": 1}, "timestamp": 1e300}',
    "no such time": '{"stream": "a", "values": {"flow": 1}, "timestamp": "9999-99-99T99:99:99Z"}',
    "time before time": '{"stream": "a", "values": {"flow": 1}, "timestamp": "0001-01-01T00:00:00+14:00"}',
    "time of nan as text": '{"stream": "a", "values": {"flow": 1}, "timestamp": "nan"}',
    "true": '{"stream": "a", "values": {"flow": true}}',
    "overflowing seq": '{"stream": "a", "values": {"flow": 1}, "seq": 18446744073709551616}',
    "huge seq": '{"stream": "a", "values": {"flow": 1}, "seq": %s}' % ("9" * 5000),
    "seq of nan": '{"stream": "a", "values": {"flow": 1}, "seq": NaN}',
    "lone surrogate as name": '{"stream": "\\ud800", "values": {"flow": 1}}',
    "lone surrogate as channel": '{"stream": "a", "values": {"\\udfff": 1}}',
    "lone surrogate as field": '{"stream": "a", "values": {"flow": 1}, "\\ud800": 1}',
    "lone surrogate as time": '{"stream": "a", "values": {"flow": 1}, "timestamp": "\\ud800"}',
    "nul in a name": '{"stream": "a\\u0000", "values": {"flow": 1}}',
    "line end in a name": '{"stream": "a\\r\\nDEL x", "values": {"flow": 1}}',
    "line end behind a name": '{"stream": "a\\n", "values": {"flow": 1}}',
    "folder in a name": '{"stream": "../a", "values": {"flow": 1}}',
    "pattern as name": '{"stream": "*", "values": {"flow": 1}}',
    "brace in a name": '{"stream": "{a}", "values": {"flow": 1}}',
    "long name": '{"stream": "%s", "values": {"flow": 1}}' % ("a" * 129),
    "long channel": '{"stream": "a", "values": {"%s": 1}}' % ("a" * 100_000),
    "deep value": '{"stream": "a", "values": {"flow": ' + "[" * 500 + "1" + "]" * 500 + "}}",
    "second time of a key wrong": '{"stream": "a", "values": {"flow": 1}, "values": null}',
    "not an object": "[]",
    "number": "1e400",
    "text": '"\\ud800"',
    "null": "null",
    "surrogate in utf-8": '{"stream": "\ud800", "values": {"flow": 1}}',
}
"""One reading each, that cannot be scored."""
NOT_JSON = {
    "nul": b"\0",
    "overlong utf-8": b'["\xc0\x80"]',
    "line end in text": b'["a\r\nb"]',
    "very deep": b"[" * 100_000,
    "very deep and whole": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"values":' * 5_000,
    "two values": b"{} {}",
    "open": b'[{"stream": "a"',
    "comment": b"[] // x",
    "text": b'"a"',
    "number": b"1e400",
}
"""Bodies that are no JSON, or JSON that is no reading."""


@pytest.fixture(params=["one model", "rules"])
def asked(request: pytest.FixtureRequest, settings: Callable[..., Settings], tmp_path: Path) -> Iterator[TestClient]:
    """A service of one model, or one that looks in each reading for its stream to know whose it is."""
    models = {} if request.param == "one model" else {"models": ruled(settings, tmp_path)}
    with TestClient(create_app(settings(**models))) as client:
        yield client


@pytest.mark.parametrize("path", ["/v1/readings", "/v1/streams/a/readings"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_reading_that_is_none_is_rejected_and_its_neighbours_are_not(
    asked: TestClient, path: str, zipped: bool
) -> None:
    for name, nasty in NASTY.items():
        for media, body in ((JSON, f"[{GOOD}, {nasty}, {GOOD}]"), (LINES, f"{GOOD}\n{nasty}\n{GOOD}")):
            raw = body.encode("utf-8", "surrogatepass")
            headers = {"content-type": media} | ({"content-encoding": "gzip"} if zipped else {})
            reply = asked.post(path, content=gzip.compress(raw) if zipped else raw, headers=headers)
            assert reply.status_code == 200, name
            results = reply.json() if media == JSON else [json.loads(line) for line in reply.text.splitlines()]
            assert [result["status"] == "rejected" for result in results] == [False, True, False], name
            assert results[1]["error"], name
            assert max(map(len, reply.text.split('"'))) < 500, name
            json.loads(reply.text.splitlines()[0], parse_constant=refuse)
    streams = asked.get("/v1/streams").json()["streams"]
    assert streams == ["a"]
    assert asked.get("/v1/streams/a").json()["readings"] == len(NASTY) * 4


@pytest.mark.parametrize("path", ["/v1/readings", "/v1/streams/a/readings"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_body_that_is_none_is_refused(asked: TestClient, path: str, zipped: bool) -> None:
    for name, body in NOT_JSON.items():
        headers = {"content-type": JSON} | ({"content-encoding": "gzip"} if zipped else {})
        reply = asked.post(path, content=gzip.compress(body) if zipped else body, headers=headers)
        assert (reply.status_code, reply.headers["content-type"]) == (400, PROBLEM), name
        assert len(reply.content) < 500, name
    assert asked.get("/v1/streams").json()["total"] == 0


def test_of_a_key_that_comes_twice_the_last_counts(client: TestClient) -> None:
    body = b'{"stream":"x","stream":"a","values":{"flow":1,"flow":2},"seq":7,"seq":8}'
    result = client.post("/v1/readings", content=body, headers={"content-type": JSON}).json()
    assert (result["stream"], result["seq"]) == ("a", 8)
    assert client.get("/v1/streams/a/history").json()[0]["values"] == {"pressure": None, "flow": 2}


def test_a_byte_order_mark_is_read_past(client: TestClient) -> None:
    reply = client.post("/v1/readings", content=b"\xef\xbb\xbf" + GOOD.encode(), headers={"content-type": JSON})
    assert reply.json()["status"] == "warming_up"


@pytest.mark.parametrize(("length", "status"), [(b"\xb2", 200), (b"9" * 5000, 413), (b"-1", 200), (b"1e9", 200)])
def test_a_content_length_that_is_none_is_no_server_error(
    settings: Callable[..., Settings], length: bytes, status: int
) -> None:
    """Most HTTP servers refuse it themselves. Python calls a superscript two a digit, and reads 4,300 of them."""

    async def sent() -> Reply:
        app = create_app(settings())
        async with app.router.lifespan_context(app):
            return await answered(app, Request("POST", "/v1/readings", b"", [(b"content-length", length)], [b"[]"]))

    assert asyncio.run(sent()).status == status
