"""Getting in without a key, by hand: what a request may be made to look like, and what is hidden in another one."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tests.support.access import add_to_file, bearer
from tests.support.samples import readings
from tests.support.whole_path import serving

READINGS = b'[{"stream": "victim", "seq": 99, "values": {"pressure": 1}}]'


@dataclass
class Closed:
    """A service that asks for keys, with a stream called victim."""

    url: str
    ingest: bytes
    admin: bytes

    def statuses(self, sent: bytes) -> list[int]:
        """The statuses of all answers to what is sent on one connection."""
        host, port = self.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            came = b""
            while more := connection.recv(65_536):
                came += more
        assert self.ingest[16:] not in came
        assert self.admin[16:] not in came
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", came)]


@pytest.fixture(scope="module")
def closed(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    folder = tmp_path_factory.mktemp("closed")
    ingest, admin = (add_to_file(folder / "keys.json", "default", scope) for scope in ("ingest", "admin"))
    with serving(artefact, folder / "data", GATEWATCH_KEYS_FILE=str(folder / "keys.json")) as (url, _):
        assert httpx2.post(f"{url}/v1/readings", json=readings("victim", 5), headers=bearer(ingest)).status_code == 200
        yield Closed(url, ingest.encode(), admin.encode())
        known = httpx2.get(f"{url}/v1/streams/victim", headers=bearer(admin)).json()
        assert (known["readings"], known["on_gap"]) == (5, "accept")  # whatever was tried
        assert httpx2.get(f"{url}/v1/streams", headers=bearer(admin)).json()["streams"] == ["victim"]


def request(line: bytes, *headers: bytes, body: bytes | None = None) -> bytes:
    lines = [line + b" HTTP/1.1", b"Host: 127.0.0.1", *headers]
    if body is not None:
        lines += [b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*lines, b"", b""]) + (body or b"")


def test_a_key_is_for_its_own_request_and_no_other_of_the_connection(closed: Closed) -> None:
    key = b"Authorization: Bearer " + closed.ingest
    keyed = request(b"POST /v1/readings", key, body=b"[]")
    bare = request(b"POST /v1/readings", body=READINGS)
    slow = request(b"POST /v1/readings", b"Content-Encoding: identity", body=READINGS)
    look = request(b"GET /v1/streams")
    assert closed.statuses(keyed + bare) == [200, 401]
    assert closed.statuses(bare + keyed) == [401, 200]
    assert closed.statuses(keyed + slow + keyed + look + bare) == [200, 401, 200, 401, 401]
    hidden = request(b"POST /v1/readings", key, body=b"[]" + bare)  # its length says that the whole is its body
    assert closed.statuses(hidden) == [400]
    short = keyed.replace(b"Content-Length: 2", b"Content-Length: 0")
    assert closed.statuses(short)[0] == 400
    assert 200 not in closed.statuses(short + bare)


@pytest.mark.parametrize("hide", ["both lengths", "two lengths", "chunked twice", "spaced", "unknown coding", "list"])
def test_a_request_whose_end_can_be_read_in_two_ways_hides_none(closed: Closed, hide: str) -> None:
    lengths = {
        "both lengths": [b"Content-Length: 4", b"Transfer-Encoding: chunked"],
        "two lengths": [b"Content-Length: 0", b"Content-Length: 5"],
        "chunked twice": [b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"],
        "spaced": [b"Transfer-Encoding : chunked", b"Content-Length: 4"],
        "unknown coding": [b"Transfer-Encoding: xchunked", b"Content-Length: 4"],
        "list": [b"Content-Length: 4, 4"],
    }[hide]
    key = b"Authorization: Bearer " + closed.ingest
    bare = request(b"POST /v1/readings", body=READINGS)
    outer = request(b"POST /v1/readings", key, b"Content-Type: application/json", *lengths)
    assert 200 not in closed.statuses(outer + b"0\r\n\r\n" + bare)


@pytest.mark.parametrize("headers", [
    [b"Authorization: Bearer %b", b"Authorization: Bearer nothing"], [b"Authorization: nothing", b"X-API-Key: %b"],
    [b"Authorization: Bearer\r\n %b"], [b"Authorization : Bearer %b"], [b"X_API_Key: %b"], [b"X-API-Key:"],
    [b"Authorization: Bearer %b\0"], [b"Authorization: Bearer \xff%b"], [b"Authorization: Token %b"],
    [b"Authorization: %b"], [b"Authorization: Bearer %b, Bearer %b"], [b"X-API-Key: %b %b"], [b"Cookie: key=%b"],
    [b"Proxy-Authorization: Bearer %b"], [b"Authorization\t: Bearer %b"], [b"\0Authorization: Bearer %b"],
])  # fmt: skip
def test_a_key_that_stands_anywhere_else_is_none(closed: Closed, headers: list[bytes]) -> None:
    sent = [header.replace(b"%b", closed.admin) for header in headers]
    for line, body in ((b"GET /v1/streams", None), (b"POST /v1/readings", READINGS)):
        assert set(closed.statuses(request(line, *sent, body=body))) <= {400, 401}, headers


def test_a_key_in_the_trailers_of_a_body_is_none(closed: Closed) -> None:
    chunks = b"%x\r\n%b\r\n0\r\nAuthorization: Bearer %b\r\n\r\n" % (len(READINGS), READINGS, closed.ingest)
    head = (b"Transfer-Encoding: chunked", b"Content-Type: application/json", b"Trailer: Authorization")
    assert closed.statuses(request(b"POST /v1/readings", *head) + chunks) == [401]


@pytest.mark.parametrize("target", [
    b"/v1/streams", b"//v1/streams", b"/v1//streams", b"/%76%31/streams", b"/v1%2fstreams", b"/livez/../v1/streams",
    b"/livez/..%2fv1/streams", b"/livez;/v1/streams", b"/v1/streams;x", b"/v1/streams/", b"/V1/STREAMS",
    b"/v1/./streams",
    b"/docs/../v1/streams", b"/v1/streams%00", b"/v1/streams%0d%0aAuthorization:x", b"/v1/streams?key=%b",
    b"/v1/streams?access_token=%b", b"/v1/streams#%b", b"http://127.0.0.1/v1/streams", b"http://%b@127.0.0.1/v1/streams",
    b"/v1/streams/victim/readings", b"/v1/streams/victim%2freadings", b"/v1/streams/livez/../victim", b"/metrics",
    b"/openapi.json/../metrics", b"/docs/", b"/redoc", b"/docs/oauth2-redirect", b"/v1/audit", b"*", b"v1/streams",
])  # fmt: skip
def test_no_other_way_to_write_a_path_or_a_method_needs_no_key(closed: Closed, target: bytes) -> None:
    for method in (b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"get", b"CONNECT"):
        found = closed.statuses(request(method + b" " + target.replace(b"%b", closed.admin)))
        assert set(found) <= {400, 401, 403}, (method, found)


@pytest.mark.parametrize("header", [
    b"X-HTTP-Method-Override: DELETE", b"X-Original-URL: /v1/streams/victim", b"X-Rewrite-URL: /v1/streams",
    b"X-Forwarded-For: 127.0.0.1", b"X-Forwarded-Prefix: /livez", b"Forwarded: for=127.0.0.1", b"X-Real-IP: 127.0.0.1",
    b"X-Forwarded-Host: localhost", b"X-Remote-User: admin", b"X-Gatewatch-Tenant: default",
])  # fmt: skip
def test_no_header_of_a_proxy_stands_for_a_key(closed: Closed, header: bytes) -> None:
    key = b"Authorization: Bearer " + closed.ingest
    assert closed.statuses(request(b"GET /v1/streams", header)) == [401]
    assert closed.statuses(request(b"POST /v1/readings", header, body=READINGS)) == [401]
    assert closed.statuses(request(b"GET /v1/streams/victim", header, key)) == [403]
    assert closed.statuses(request(b"DELETE /v1/streams/victim", header, key)) == [403]


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c", b"TLS/1.0"])
def test_an_upgrade_is_no_way_past(closed: Closed, protocol: bytes) -> None:
    upgrade = (b"Connection: Upgrade", b"Upgrade: " + protocol, b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
    bare = request(b"POST /v1/readings", body=READINGS)
    assert closed.statuses(request(b"GET /v1/streams", *upgrade) + bare) == [401, 401]
    assert closed.statuses(request(b"GET /livez", *upgrade) + bare) == [200, 401]
    assert closed.statuses(request(b"POST /v1/readings", *upgrade, body=READINGS) + bare) == [401, 401]


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b""])
def test_an_older_or_a_newer_http_is_no_way_past(closed: Closed, version: bytes) -> None:
    for line in (b"GET /v1/streams ", b"POST /v1/readings "):
        assert 200 not in closed.statuses(line + version + b"\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n")
    assert 200 not in closed.statuses(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")


def test_hostile_names_of_streams_get_nobody_anywhere(closed: Closed) -> None:
    """Under every kind of key; none is an error of the service, and none says what there is."""
    names = ["..", "%2e%2e", "victim%00", "victim%0a", "victim'", '"', "{}", "*", "%", "a" * 300, "%f0%9f%92%a9",
             "a:b", "%c0%ae", "victim%2f..%2fvictim", "gatewatch", "-", ".", "victim?", "victim%23"]  # fmt: skip
    with httpx2.Client(base_url=closed.url) as client:
        for key, allowed in ((closed.ingest, {403}), (closed.admin, {200, 204, 400, 404, 405, 422})):
            for name in names:
                for method in ("GET", "PUT"):
                    sent = client.request(method, f"/v1/streams/{name}/history", headers=bearer(key.decode()))
                    assert sent.status_code in allowed | {403}, (name, sent.text)
