"""Connections that do not finish what they begin are answered and closed; nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import resource
import select
import socket
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import uvicorn

from gatewatch.service.runtime import SPARE_FILES, allow_files
from gatewatch.service.storage.private_redis import start_private_redis
from tests.faults.slowloris import Held, dribble, open_files, rss_mb
from tests.support.forked import Process
from tests.support.samples import CROWDED, crowded, readings
from tests.support.waiting import PATIENCE_S
from tests.support.whole_path import serving

SHORT = {"GATEWATCH_HEAD_DEADLINE_S": "1", "GATEWATCH_BODY_DEADLINE_S": "1"}
POST = b"POST /v1/readings HTTP/1.1\r\nhost: localhost\r\n"
GET = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n"
GROWTH_MB = 16


@dataclass
class Service:
    url: str
    port: int
    process: Process

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=15)

    def send(self, *pieces: bytes) -> tuple[int | None, dict[str, Any]]:
        """Send pieces and be silent; the status and problem of the answer, or None if it closes without one."""
        with self.connect() as connection:
            with contextlib.suppress(ConnectionError):
                for piece in pieces:
                    connection.sendall(piece)
            return answer(until_closed(connection))

    def answer_to(self, request: bytes) -> tuple[int | None, dict[str, Any]]:
        """Send a request; the status and content of its answer."""
        with self.connect() as connection:
            connection.sendall(request)
            return answer(one_answer(connection))


def until_closed(connection: socket.socket) -> bytes:
    """All that comes until the other side closes; a reset counts as closed."""
    came = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(65536):
            came += chunk
    return came


def one_answer(connection: socket.socket) -> bytes:
    """What comes until an answer is whole."""
    came = b""
    while chunk := connection.recv(65536):
        came += chunk
        head, end, body = came.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]):
            break
    return came


def answer(came: bytes) -> tuple[int | None, dict[str, Any]]:
    if not came:
        return None, {}
    head, _, body = came.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    status = int(lines[0].split()[1])
    if status >= 400:
        assert "content-type: application/problem+json" in lines, came
        assert f"content-length: {len(body)}" in lines, came
        assert json.loads(body)["status"] == status
    return status, json.loads(body)


@contextlib.contextmanager
def edge(artefact: Path, data: Path, *options: str, **environment: str) -> Iterator[Service]:
    with serving(artefact, data, *options, **SHORT, **environment) as (url, process):
        yield Service(url, urlsplit(url).port or 0, process)


@pytest.fixture(scope="module")
def service(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with edge(artefact, tmp_path_factory.mktemp("edge")) as service:
        yield service


def in_background(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    return thread, results


def test_three_hundred_that_dribble_are_closed_and_a_good_client_is_answered(service: Service) -> None:
    """Half of them never end a head, half never a body; each byte they send buys them nothing."""
    all_open, stop = threading.Event(), threading.Event()
    thread, results = in_background(lambda: asyncio.run(dribble(service.port, 300, all_open, stop, 20)))
    with httpx2.Client(base_url=service.url) as client:
        for number in range(20):
            assert client.post("/v1/readings", json=readings("good", 1, start=number)).status_code == 200
            assert httpx2.get(f"{service.url}/livez").status_code == 200
        assert all_open.wait(20)
        stop.set()
        thread.join(60)
        assert client.post("/v1/readings", json=readings("good", 1, start=20)).status_code == 200
    held: Held = results[0]
    assert held.opened == 300
    assert held.left == 0


def test_a_head_that_does_not_end_gets_408(service: Service) -> None:
    status, problem = service.send(GET + b"x-slow: ")
    assert (status, problem["title"]) == (408, "Request timeout")
    assert "the head was not whole after 1 s" in problem["detail"]


@pytest.mark.parametrize(
    "pieces",
    [
        (POST + b"content-length: 100\r\n\r\n", b"[1"),
        (POST + b"content-length: 100\r\n\r\n",),
        (POST + b"transfer-encoding: chunked\r\n\r\n", b"5\r\n[1,2,\r\n", b"5"),
        (POST + b"transfer-encoding: chunked\r\n\r\n", b"2\r\n[]\r\n0\r\n", b"x-trailer: "),
    ],
    ids=["a beginning", "nothing", "chunks", "a trailer"],
)
def test_a_body_that_does_not_end_gets_408(service: Service, pieces: tuple[bytes, ...]) -> None:
    status, problem = service.send(*pieces)
    assert status == 408
    assert "the body was not whole after 1 s" in problem["detail"]


@pytest.mark.parametrize("pieces", [(), (b"\r\n",), (b"\r\n", b"\r\n" * 100)], ids=["silent", "a blank line", "many"])
def test_a_connection_without_a_request_is_closed_without_an_answer(service: Service, pieces: tuple[bytes]) -> None:
    assert service.send(*pieces) == (None, {})


def test_an_idle_connection_is_kept_beyond_the_deadline_of_a_head(service: Service) -> None:
    with service.connect() as connection:
        connection.sendall(GET + b"\r\n")
        assert b"200 OK" in one_answer(connection)
        time.sleep(2.5)  # more than the deadline and a sweep; keep-alive is 5 s
        connection.sendall(GET + b"connection: close\r\n\r\n")
        assert b"200 OK" in until_closed(connection)


def test_a_second_request_has_deadlines_of_its_own(service: Service) -> None:
    with service.connect() as connection:
        connection.sendall(GET + b"\r\n" + GET)  # the second head comes with the first and does not end
        came = until_closed(connection)
    assert came.count(b"HTTP/1.1 200") == 1
    assert came.count(b"HTTP/1.1 408") == 1


def test_a_request_in_small_pieces_is_answered(service: Service) -> None:
    body = json.dumps(readings("pieces", 3)).encode()
    whole = POST + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    with service.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(whole), 11):
            connection.sendall(whole[at : at + 11])
        came = until_closed(connection)
    assert came.startswith(b"HTTP/1.1 200")


def test_requests_sent_without_waiting_are_all_answered(service: Service) -> None:
    """Bodies and heads that share a read count for themselves."""
    requests = []
    for number in range(12):
        body = json.dumps(readings("pipelined", 100, start=100 * number)).encode()
        requests.append(POST + b"x-padding: " + b"p" * 20_000 + b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    with service.connect() as connection:
        connection.sendall(b"".join(requests) + GET + b"connection: close\r\n\r\n")
        assert until_closed(connection).count(b"HTTP/1.1 200") == 13


def test_who_sends_requests_without_waiting_and_hangs_up_is_no_error(service: Service) -> None:
    many = [{**readings("any", 1)[0], "stream": f"many-{at}"} for at in range(60)]
    request = post("/v1/readings", "application/json", json.dumps(many).encode())
    for _ in range(20):
        with service.connect() as connection:
            connection.sendall(6 * request)  # one read; the first is answered, and then the end of the connection found
    service.answer_to(request)
    assert service.process.stderr is not None
    os.set_blocking(service.process.stderr.fileno(), False)
    assert b'"level": "error"' not in (service.process.stderr.read() or b"")
    os.set_blocking(service.process.stderr.fileno(), True)


def test_a_head_may_be_just_as_large_as_the_bound(service: Service) -> None:
    fits = GET + b"connection: close\r\nx-large: " + b"a" * 32_000 + b"\r\n\r\n"
    assert service.send(fits)[0] == 200
    assert service.send(fits[:20_000], fits[20_000:])[0] == 200


@pytest.mark.parametrize(
    "pieces",
    [
        (GET + b"x-large: " + b"a" * 33_000 + b"\r\n\r\n",),
        (GET + b"x-large: " + b"a" * 33_000,),
        (GET + b"".join(b"x-%d: a\r\n" % number for number in range(4000)) + b"\r\n",),
        (b"GET /" + b"a" * 40_000,),
    ],
    ids=["one header", "half a header", "many headers", "URL"],
)
def test_a_head_that_is_too_large_gets_431_or_is_cut_off(service: Service, pieces: tuple[bytes, ...]) -> None:
    status, problem = service.send(*pieces)
    assert (status, problem["title"]) == (431, "Request header fields too large")


@pytest.mark.parametrize(
    "beginning",
    [GET + b"x-large: ", POST + b"transfer-encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\nx-trailer: "],
    ids=["head", "trailer"],
)
def test_a_header_without_end_costs_no_memory(service: Service, beginning: bytes) -> None:
    most = rss_mb(service.process.pid, "VmHWM")
    status, _ = service.send(beginning, *(b"a" * 2**20 for _ in range(100)))
    assert status in (431, None)  # None: reset while still sending
    assert rss_mb(service.process.pid, "VmHWM") - most < GROWTH_MB


def test_what_is_not_http_gets_a_problem_document(service: Service) -> None:
    status, problem = service.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    assert (status, problem["title"]) == (400, "Bad request")


@pytest.mark.parametrize(
    ("headers", "make"),
    [
        (b"content-length: 209715200\r\n", lambda: b""),
        (b"content-length: 209715200\r\nexpect: 100-continue\r\n", lambda: b""),
        (b"transfer-encoding: chunked\r\n", lambda: b"9000000\r\n" + b"[" * 9_000_000),
        (b"content-length: 4000000\r\n", lambda: b"[" * 4_000_000),
        (b"content-length: %d\r\ncontent-encoding: gzip\r\n", lambda: gzip.compress(b" " * 200 * 2**20, 1)),
    ],
    ids=["announced", "asked for", "chunked", "nested", "gzipped"],
)
def test_a_body_that_asks_too_much_gets_4xx_and_costs_no_memory(
    service: Service, headers: bytes, make: Callable[[], bytes]
) -> None:
    """Without waiting for the rest of the body; the connection ends by its deadline."""
    body = make()
    if b"%d" in headers:
        headers %= len(body)
    for attempt in range(3):
        with service.connect() as connection:
            connection.sendall(POST + headers + b"\r\n" + body)
            status, _ = answer(one_answer(connection))
        assert status in (400, 413)
        if attempt == 0:  # once, the buffers of 8 MiB may grow
            most = rss_mb(service.process.pid, "VmHWM")
    assert rss_mb(service.process.pid, "VmHWM") - most < GROWTH_MB


def test_while_no_reading_more_may_wait_a_body_is_not_read_and_its_connection_goes_on(
    artefact: Path, tmp_path: Path
) -> None:
    """The 429 comes before the body; what then comes of it is read past, and takes no memory."""
    waiting = {f"GATEWATCH_{name.upper()}": str(value) for name, value in CROWDED.items()}
    body = json.dumps(readings("large", 1)).encode().ljust(8_000_000)
    with (
        start_private_redis(tmp_path) as private,
        edge(artefact, tmp_path, **waiting, GATEWATCH_REDIS_URL=private.url) as service,
        httpx2.Client(base_url=service.url, timeout=20) as client,
        service.connect() as connection,
    ):
        assert client.post("/v1/readings", json=readings("first", 1)).status_code == 200
        most = rss_mb(service.process.pid, "VmHWM")
        with crowded(client, private.url):
            head = POST + b"content-length: %d\r\n" % len(body)
            connection.sendall(head + b"expect: 100-continue\r\n\r\n")
            assert answer(one_answer(connection))[0] == 429  # and no 100
            for _ in range(3):
                connection.sendall(body + head + b"\r\n")
                assert answer(one_answer(connection))[0] == 429
            connection.sendall(body)
        connection.sendall(GET + b"connection: close\r\n\r\n")
        assert answer(until_closed(connection))[0] == 200
        assert rss_mb(service.process.pid, "VmHWM") - most < 4
        assert client.post("/v1/readings", json=readings("first", 1, start=1)).status_code == 200


def test_large_bodies_have_one_bound_together_and_small_ones_pass(artefact: Path, tmp_path: Path) -> None:
    body = json.dumps(readings("large", 1)).encode().ljust(3_000_000)
    whole = POST + b"content-length: %d\r\n\r\n" % len(body) + body
    long = {"GATEWATCH_BODY_DEADLINE_S": "60"}
    with serving(artefact, tmp_path, GATEWATCH_WAITING_BYTES="16000000", **long) as (url, process):
        service = Service(url, urlsplit(url).port or 0, process)
        assert service.answer_to(whole)[0] == 200
        most = rss_mb(process.pid, "VmHWM")
        with contextlib.ExitStack() as stack, httpx2.Client(base_url=url) as client:
            slow = [stack.enter_context(service.connect()) for _ in range(30)]
            for connection in slow:
                connection.sendall(whole[:-10])
            deadline = time.monotonic() + PATIENCE_S
            while len(select.select(slow, [], [], 0)[0]) < 25:  # five find room, as long as nobody else asks for it
                assert time.monotonic() < deadline, "what was sent has not all arrived"
                time.sleep(0.05)
            status, problem = service.answer_to(whole)
            assert (status, problem["title"]) == (429, "Too many readings waiting")
            assert "at most 16000000 are held (GATEWATCH_WAITING_BYTES)" in problem["detail"]
            assert client.post("/v1/readings", json=readings("small", 3)).status_code == 200
            statuses = []
            for connection in slow:
                connection.sendall(whole[-10:])
                statuses.append(answer(one_answer(connection))[0])
            assert set(statuses) == {200, 429}
            assert statuses.count(200) == 5
        assert service.answer_to(whole)[0] == 200
        assert rss_mb(process.pid, "VmHWM") - most < 16 + 3 + GROWTH_MB


def test_uvicorn_is_bound_to_the_version_whose_protocol_is_tested_here() -> None:
    pyproject = tomllib.loads((Path(__file__).parent.parent.parent.parent.parent / "pyproject.toml").read_text())
    (bound,) = (text for text in pyproject["project"]["dependencies"] if text.startswith("uvicorn"))
    assert bound == f"uvicorn=={uvicorn.__version__.rpartition('.')[0]}.*"


def test_who_does_not_read_the_answers_is_cut_off(service: Service) -> None:
    with service.connect() as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert answer(one_answer(connection))[0] == 200
        assert held_by_service(connection)
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n" * 2000)
        deadline = time.monotonic() + PATIENCE_S
        while held_by_service(connection) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not held_by_service(connection)


def held_by_service(connection: socket.socket) -> bool:
    """Whether the other end of a connection is open in some process, by Linux's table of sockets.

    The files that the service has open say less: it may connect to Redis once more meanwhile.
    """
    ends = [f":{port:04X}" for port in (connection.getpeername()[1], connection.getsockname()[1])]
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(ends[0]) and row[2].endswith(ends[1]) and row[9] != "0" for row in rows)


def test_over_the_bound_those_without_a_whole_request_give_way(artefact: Path, tmp_path: Path) -> None:
    long = {"GATEWATCH_HEAD_DEADLINE_S": "60", "GATEWATCH_BODY_DEADLINE_S": "60", "GATEWATCH_CONNECTIONS": "10"}
    with serving(artefact, tmp_path, **long) as (url, process), contextlib.ExitStack() as stack:
        service = Service(url, urlsplit(url).port or 0, process)
        client = stack.enter_context(httpx2.Client(base_url=url))
        assert client.get("/livez").status_code == 200
        before = open_files(process.pid)
        slow = [stack.enter_context(service.connect()) for _ in range(30)]
        for number, connection in enumerate(slow):
            with contextlib.suppress(ConnectionError):
                connection.sendall(GET if number % 2 else POST + b"content-length: 9\r\n\r\n")
        assert client.get("/livez").status_code == 200
        assert httpx2.get(f"{url}/livez").status_code == 200
        assert open_files(process.pid) - before < 10
        still_open = 0
        for connection in slow:
            connection.settimeout(0.2)
            try:
                assert answer(until_closed(connection))[0] in (408, None)  # None: a reset was faster
            except TimeoutError:
                still_open += 1
        assert still_open < 10


def test_every_worker_keeps_the_deadlines(artefact: Path, tmp_path: Path) -> None:
    with edge(artefact, tmp_path, "--workers", "2") as service:
        threads = [in_background(lambda: service.send(GET)) for _ in range(20)]
        for thread, results in threads:
            thread.join(30)
            assert results[0][0] == 408


def test_the_limit_of_open_files_bounds_the_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        assert allow_files(1000) == 1000
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 1000 + SPARE_FILES
        assert allow_files(hard) == hard - SPARE_FILES
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_connection_answers_a_small_request_as_the_app_does(service: Service) -> None:
    """A header that asks for nothing sends a request through the app."""
    sent = readings("direct", 3)
    array, lines = json.dumps(sent).encode(), b"\n".join(json.dumps(reading).encode() for reading in sent)
    requests = [
        ("/v1/readings", "application/json", array),
        ("/v1/readings", "application/json", json.dumps(sent[0]).encode()),
        ("/v1/readings", "application/x-ndjson", lines),
        ("/v1/streams/direct/readings", "application/json", array),
        ("/v1/streams/other/readings", "application/json", array),  # its name is another one
        ("/v1/streams/other#x/readings", "application/json", array),  # a fragment is no part of the path
        ("/v1/readings", "application/json", b"[1, 2"),
        ("/v1/readings", "application/json", b""),
        ("/v1/readings", "application/json", b"[]"),
        ("/v1/readings", "text/csv", array),
    ]
    service.answer_to(post(*requests[0]))
    for request in requests:
        with service.connect() as connection:
            connection.sendall(post(*request))
            direct = one_answer(connection)
            connection.sendall(post(*request, b"content-encoding: identity\r\n"))
            by_app = one_answer(connection)
        assert without_date(direct) == without_date(by_app)


def test_the_bound_on_bodies_holds_for_small_requests_too(artefact: Path, tmp_path: Path) -> None:
    body = json.dumps(readings("bound", 20)).encode()
    with edge(artefact, tmp_path, GATEWATCH_REQUEST_BYTES="1024") as service:
        status, content = service.answer_to(post("/v1/readings", "application/json", body))
        assert (status, content["detail"]) == (
            413,
            f"the body has {len(body)} bytes; at most 1024 are taken: send the readings in several requests",
        )
        assert service.answer_to(post("/v1/readings", "application/json", body[:900]))[0] == 400  # cut off
        assert service.answer_to(post("/v1/streams/bound/readings", "application/json", b"[]"))[0] == 200


def test_requests_that_come_at_once_are_answered_in_turn_and_the_last_one_closes(service: Service) -> None:
    with service.connect() as connection:
        first = post("/v1/readings", "application/json", json.dumps(readings("turn", 1)).encode())
        last = post("/v1/readings", "application/json", b"[1, 2", b"connection: close\r\n")
        connection.sendall(first + first + last)
        came = until_closed(connection)
    heads = [line for line in came.split(b"\r\n") if b"HTTP/1.1" in line]
    assert [head.rpartition(b"HTTP/1.1 ")[2][:3] for head in heads] == [b"200", b"200", b"400"]
    assert came.count(b'"replayed":true') == 1


def post(path: str, content_type: str, body: bytes, more: bytes = b"") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\n"
    return head.encode() + more + b"content-length: %d\r\n\r\n" % len(body) + body


def without_date(came: bytes) -> list[bytes]:
    return [line for line in came.split(b"\r\n") if not line.startswith(b"date:")]


UPGRADE = b"connection: Upgrade, HTTP2-Settings\r\nhttp2-settings: AAEAAEAAAAIAAAAA\r\nupgrade: %b\r\n"
DELETE = b"DELETE /v1/streams/victim HTTP/1.1\r\nhost: localhost\r\n\r\n"


def talk(service: Service, *pieces: bytes, half: bool = True) -> list[tuple[int, bytes]]:
    """Send pieces, each in a segment of its own, and say that no more comes; the answers until it closes."""
    with service.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at, piece in enumerate(pieces):
            if at:
                time.sleep(0.1)
            connection.sendall(piece)
        if half:
            connection.shutdown(socket.SHUT_WR)
        return answers_in(until_closed(connection))


def answers_in(came: bytes) -> list[tuple[int, bytes]]:
    found = []
    while came:
        head, _, came = came.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
        found.append((int(head.split()[1]), came[:length]))
        came = came[length:]
    return found


def body_of(stream: str, number: int = 0) -> bytes:
    return json.dumps(readings(stream, 1, start=number)).encode()


def statuses(answers: list[tuple[int, bytes]]) -> list[int]:
    return [status for status, _ in answers]


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"TLS/1.2", b"foo, bar"])
def test_who_asks_for_another_protocol_is_answered_as_if_it_did_not(service: Service, protocol: bytes) -> None:
    upgrade, body = UPGRADE % protocol, body_of(f"upgrade-{protocol.hex()}")
    whole = post("/v1/readings", "application/json", body, upgrade)
    head, content = whole[: -len(body)], whole[-len(body) :]
    chunked = (
        POST + upgrade + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\nx-trailer: a\r\n\r\n" % (len(body), body)
    )
    get = GET + upgrade + b"\r\n"
    assert statuses(talk(service, whole)) == [200]
    assert statuses(talk(service, head, content)) == [200]
    assert statuses(talk(service, head[:50], head[50:-3], head[-3:] + content[:9], content[9:])) == [200]
    assert statuses(talk(service, chunked)) == [200]
    found = talk(service, whole + chunked + get + whole + get + GET + b"\r\n")
    assert statuses(found) == [200] * 6
    assert [b'"replayed":true' in content for _, content in found] == [True, True, False, True, False, False]


@pytest.mark.parametrize("pad", [0, 9, 70_000])
@pytest.mark.parametrize("framing", [b"content-length: %d\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n%x\r\n"])
def test_a_body_never_becomes_a_request(service: Service, pad: int, framing: bytes) -> None:
    service.answer_to(post("/v1/readings", "application/json", body_of("victim")))
    body = b" " * pad + DELETE
    head = POST + UPGRADE % b"h2c" + framing % len(body)
    end = b"\r\n0\r\n\r\n" if b"chunked" in framing else b""
    for pieces in ((head + body + end,), (head, body + end), (head + body[:pad], body[pad:], end)):
        assert statuses(talk(service, *pieces)) == [400]
    for method in (b"GET", b"DELETE"):  # with a body that they do not need
        other = method + b" /livez HTTP/1.1\r\nhost: localhost\r\n" + framing % len(body)
        assert statuses(talk(service, other, body, end)) == [200 if method == b"GET" else 405]
    closing = post("/v1/readings", "application/json", b"[", b"connection: close\r\n")
    assert statuses(talk(service, closing + DELETE)) == [400]
    assert statuses(talk(service, closing.replace(b"HTTP/1.1", b"HTTP/1.0") + DELETE)) == [400]
    assert httpx2.get(f"{service.url}/v1/streams/victim").status_code == 200


@pytest.mark.parametrize(
    ("last", "status"),
    [
        (b"CONNECT x:1 HTTP/1.1\r\nhost: x:1\r\n\r\n", 400),
        (b"CONNECT x:1 HTTP/1.1\r\nhost: x:1\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n", 400),
        (b"GET http://a:99999999/ HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
        (b"GET http://[::1 HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
        (b"GET http:// HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
        (b"GET ftp://localhost/livez HTTP/1.1\r\n\r\n", 400),
        (b"GET * HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00", 400),
        (POST + b"transfer-encoding: chunked\r\n\r\nzz", 400),
        (POST + b"content-length: 100\r\n\r\n[1", 400),
        (GET + b"x-cut: ", 400),
        (GET + b"x-large: " + b"a" * 33_000 + b"\r\n\r\n", 431),
        (GET.replace(b"localhost", b"evil.example") + b"\r\n", 403),
        (GET + b"host: localhost\r\n\r\n", 400),
        (b"GET http://evil.example/livez HTTP/1.1\r\nhost: localhost\r\n\r\n", 403),
        (b"GET http://localhost:1234/livez?x HTTP/1.1\r\nhost: evil.example\r\n\r\n", 200),
        (b"GET http://127.0.0.1 HTTP/1.1\r\n\r\n", 200),
        (b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n", 404),
        (b"GET /livez HTTP/1.0\r\n\r\n", 200),
    ],
)
def test_whatever_comes_behind_takes_no_answer_away(service: Service, last: bytes, status: int) -> None:
    good = [post("/v1/readings", "application/json", body_of("before", number)) for number in range(3)]
    for request in good:
        service.answer_to(request)
    app = GET + b"\r\n"
    for before in ([], [good[0]], [app], [*good, app], [app, *good]):
        found = talk(service, b"".join(before) + last)
        assert statuses(found) == [200] * len(before) + [status]
    assert statuses(talk(service, good[0], last)) == [200, status]
    assert service.process.stderr is not None
    os.set_blocking(service.process.stderr.fileno(), False)
    assert b'"level": "error"' not in (service.process.stderr.read() or b"")
    os.set_blocking(service.process.stderr.fileno(), True)


def test_who_sends_no_more_gets_all_answers(service: Service) -> None:
    large = b" " * 70_000
    kinds = [
        post("/v1/readings", "application/json", body_of("half")),
        post("/v1/readings", "application/json", body_of("half", 1), b"content-encoding: identity\r\n"),
        post("/v1/readings", "application/json", body_of("half", 2) + large),
        POST
        + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body_of("half", 3)), body_of("half", 3)),
        GET + b"\r\n",
    ]
    for request in kinds:
        assert statuses(talk(service, request)) == [200]
    assert statuses(talk(service, b"".join(kinds) * 20)) == [200] * 100
    assert statuses(talk(service, b"")) == []


def test_a_trailer_is_no_header(service: Service) -> None:
    body = body_of("trailer")
    first = POST + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n" % (len(body), body)
    trailers = b"content-encoding: gzip\r\nhost: evil.example\r\norigin: null\r\n\r\n"
    assert statuses(talk(service, GET + b"\r\n" + first + trailers)) == [200, 200]


def test_a_browser_is_refused_on_both_ways(service: Service) -> None:
    for more in (b"", b"content-encoding: identity\r\n"):
        request = post("/v1/readings", "text/plain", body_of("csrf"), more)
        for foreign in (b"origin: https://evil.example\r\n", b"origin: null\r\n", b"sec-fetch-site: cross-site\r\n"):
            asked = request.replace(b"content-type", foreign + b"content-type")
            assert statuses(talk(service, asked)) == [403]
        assert statuses(talk(service, request.replace(b"localhost", b"evil.example"))) == [403]
        assert statuses(talk(service, request.replace(b"content-type", b"host: localhost\r\ncontent-type"))) == [400]
    assert httpx2.get(f"{service.url}/v1/streams/csrf").status_code == 404


def test_head_is_answered_as_get_without_the_body(service: Service) -> None:
    for path in ("/livez", "/readyz", "/metrics", "/docs", "/openapi.json", "/v1/streams", "/v1/streams/unknown"):
        with service.connect() as connection:
            asked = f"{{}} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
            connection.sendall(asked.format("HEAD").encode())
            head, _, body = until_closed(connection).partition(b"\r\n\r\n")
        assert body == b""
        assert int(head.split()[1]) == httpx2.get(service.url + path).status_code
        assert b"content-length: " in head


def test_over_the_bound_those_idle_longest_give_way(artefact: Path, tmp_path: Path) -> None:
    with serving(artefact, tmp_path, GATEWATCH_CONNECTIONS="8") as (url, process), contextlib.ExitStack() as stack:
        service = Service(url, urlsplit(url).port or 0, process)
        idle = [stack.enter_context(service.connect()) for _ in range(8)]
        for connection in idle:
            connection.sendall(GET + b"\r\n")
            assert b"200 OK" in one_answer(connection)
        assert service.answer_to(GET + b"\r\n")[0] == 200
        assert until_closed(idle[0]) == b""


def test_an_idle_connection_is_closed_after_the_time_set_for_it(artefact: Path, tmp_path: Path) -> None:
    with serving(artefact, tmp_path, GATEWATCH_KEEP_ALIVE_S="0.5") as (url, process):
        service = Service(url, urlsplit(url).port or 0, process)
        assert statuses(talk(service, GET + b"\r\n", half=False)) == [200]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stop_is_announced_and_all_is_answered_until_then(artefact: Path, tmp_path: Path, workers: str) -> None:
    with serving(artefact, tmp_path, GATEWATCH_DRAIN_S="3", GATEWATCH_WORKERS=workers) as (url, process):
        with httpx2.Client(base_url=url) as client:
            assert client.get("/readyz").status_code == 200
            process.terminate()
            deadline = time.monotonic() + PATIENCE_S
            while (reply := httpx2.get(f"{url}/readyz")).status_code == 200:
                assert time.monotonic() < deadline
            assert (reply.status_code, reply.json()["title"]) == (503, "Stopping")
            process.terminate()  # again, as systemd does: it is neither longer nor shorter for that
            for number in range(3):
                reply = client.post("/v1/readings", json=readings("drain", 1, start=number))
                assert (reply.status_code, reply.headers["connection"]) == (200, "close")
            assert httpx2.get(f"{url}/livez").status_code == 200
        assert process.wait(20) == 0
