"""A browser that a stranger's page directs is refused; whoever is no browser goes on as before."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from gatewatch.service.app import create_app
from gatewatch.service.errors import BadRequest, Forbidden
from gatewatch.service.http.callers import Callers
from gatewatch.service.settings import Settings
from tests.support.samples import post, readings

CALLERS = Callers(("gatewatch", "GW.example.com"))


def refused(method: str = "POST", **headers: str) -> str:
    """What a request is refused with; empty if it is not."""
    sent = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    try:
        CALLERS.check(method, sent)
    except (BadRequest, Forbidden) as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:8000",
        "localhost.",
        "127.0.0.1:8000",
        "10.1.2.3",
        "[::1]:8000",
        "[fe80::1%eth0]",
        "[::1]",
        "gatewatch:8000",
        "Gatewatch",
        "gw.example.com",
        "gw.example.com.:443",
        "",
    ],
)
def test_an_address_localhost_and_a_name_of_its_own_are_hosts(host: str) -> None:
    assert refused(host=host) == ""


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "gatewatch.evil.example",
        "evil-gatewatch.com",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example@127.0.0.1",
        "127.0.0.1/evil",
        "0x7f.1",
        "2130706433",
        "::1",
        "[::1",
        "localhost:80:80",
        "localhost, evil.example",
        "a b",
        "\xe9",
        ".",
        "evil." * 100,
    ],
)
def test_any_other_host_is_refused(host: str) -> None:
    assert "GATEWATCH_ALLOWED_HOSTS" in refused(host=host)
    assert "GATEWATCH_ALLOWED_HOSTS" in refused(host=host)  # nor is it remembered as a good one


def test_two_hosts_are_none() -> None:
    with pytest.raises(BadRequest, match="2 Host headers"):
        CALLERS.check("GET", [(b"host", b"localhost"), (b"host", b"localhost")])


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "",
        "http://localhost:3000",
        "http://localhost",
        "http://gatewatch:3000",
        "file://",
        "http://localhost:8000.evil.example",
        "http://evil@localhost:8000",
        "localhost:8000",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_a_page_of_another_origin_is_refused(method: str, origin: str) -> None:
    assert "expected one of this service" in refused(method, host="localhost:8000", origin=origin)
    assert refused(method, origin=origin) != ""


def test_the_pages_of_the_service_may_ask_it_also_behind_a_proxy_that_changes_host() -> None:
    assert refused(host="localhost:8000", origin="http://localhost:8000", sec_fetch_site="same-origin") == ""
    assert refused(host="[::1]:8000", origin="http://[::1]:8000") == ""
    assert refused(host="127.0.0.1:8000", origin="https://gw.example.com", sec_fetch_site="same-origin") == ""


def test_a_forwarded_host_proves_nothing() -> None:
    headers = {"x_forwarded_host": "evil.example", "forwarded": "host=evil.example"}
    assert refused(host="localhost", origin="https://evil.example", **headers) != ""
    assert refused(host="evil.example", x_forwarded_host="localhost") != ""


@pytest.mark.parametrize("site", ["cross-site", "same-site", "Cross-Site", "anything"])
def test_what_another_site_makes_a_browser_fetch_is_refused_but_a_link_may_be_followed(site: str) -> None:
    link = {"sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert "another site" in refused("GET", host="localhost", sec_fetch_site=site)
    assert "another site" in refused("GET", host="localhost", sec_fetch_site=site, sec_fetch_mode="no-cors")
    assert "another site" in refused("POST", host="localhost", sec_fetch_site=site, **link)
    assert "another site" in refused(
        "GET", host="localhost", sec_fetch_site=site, **link | {"sec_fetch_dest": "iframe"}
    )
    assert refused("GET", host="localhost", sec_fetch_site=site, **link) == ""
    assert refused("GET", host="evil.example", sec_fetch_site=site, **link) != ""


@pytest.mark.parametrize("media", ["application/json", "text/plain", "application/x-www-form-urlencoded", None])
def test_nothing_that_a_strangers_page_sends_has_an_effect(client: TestClient, media: str | None) -> None:
    post(client, readings("victim", 1))
    foreign = {"origin": "https://evil.example"} | ({} if media is None else {"content-type": media})
    assert client.post("/v1/streams/csrf/readings", content=b'{"values": {}}', headers=foreign).status_code == 403
    assert client.put("/v1/streams/csrf", content=b"{}", headers=foreign).status_code == 403
    assert client.delete("/v1/streams/victim", headers=foreign).status_code == 403
    assert client.delete("/v1/streams/victim", headers={"host": "evil.example"}).status_code == 403
    reply = client.get("/v1/streams", headers={"host": "evil.example"})
    assert (reply.status_code, reply.headers["content-type"]) == (403, "application/problem+json")
    assert client.get("/v1/streams").json()["streams"] == ["victim"]


def test_the_name_it_listens_on_is_one_of_its_own(settings: Callable[..., Settings]) -> None:
    app = create_app(settings(host="sensors.plant", allowed_hosts=()))
    with TestClient(app, base_url="http://sensors.plant:8000") as client:
        assert client.get("/livez").status_code == 200
    with TestClient(app, base_url="http://other.plant") as client:
        assert client.get("/livez").status_code == 403


def test_the_readers_that_there_are_go_on(client: TestClient) -> None:
    for agent, path in {"Prometheus/3.5": "/metrics", "kube-probe/1.31": "/readyz", "curl/8": "/v1/streams"}.items():
        assert client.get(path, headers={"host": "10.0.0.7:8000", "user-agent": agent}).status_code == 200
