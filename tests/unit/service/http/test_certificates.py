"""TLS, of the service and to Redis, with certificates made here."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from starlette.testclient import TestClient

from gatewatch.models.errors import GatewatchError
from gatewatch.service.app import create_app
from gatewatch.service.http.certificates import Certificate
from gatewatch.service.settings import Settings
from tests.support.certificates import make_certificate
from tests.support.cli import gatewatch, refused
from tests.support.samples import readings
from tests.support.waiting import PATIENCE_S
from tests.support.whole_path import serving


def shown_by(url: str) -> str:
    """The common name of the certificate that a service shows."""
    host, port = url.removeprefix("https://").split(":")
    pem = ssl.get_server_certificate((host, int(port)))
    (name,) = x509.load_pem_x509_certificate(pem.encode()).subject
    return str(name.value)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_new_certificate_takes_effect_without_a_restart_and_a_bad_one_changes_nothing(
    artefact: Path, tmp_path: Path, workers: str
) -> None:
    certificate, key = make_certificate(tmp_path, "first")
    second, second_key = make_certificate(tmp_path, "second")
    trusted = ssl.create_default_context(cafile=str(certificate))
    trusted.load_verify_locations(second)
    tls = {"GATEWATCH_TLS_CERT": str(certificate), "GATEWATCH_TLS_KEY": str(key)}
    with (
        serving(artefact, tmp_path / "data", "--workers", workers, **tls) as (url, _),
        httpx2.Client(base_url=url, verify=trusted) as kept,
    ):
        reply = kept.post("/v1/readings", json=readings("tls", 2))
        assert (reply.status_code, reply.headers["strict-transport-security"]) == (200, "max-age=31536000")
        with pytest.raises(httpx2.TransportError):
            httpx2.get(url.replace("https", "http") + "/livez")
        shutil.copy(second, certificate)  # its key is not there yet
        time.sleep(1.1)
        assert {shown_by(url) for _ in range(4)} == {"first"}
        shutil.copy(second_key, key)
        deadline = time.monotonic() + PATIENCE_S
        while {shown_by(url) for _ in range(4)} != {"second"}:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert kept.post("/v1/readings", json=readings("tls", 2)).json()[0]["replayed"]  # on its connection of before
        assert httpx2.get(f"{url}/livez", verify=trusted).status_code == 200


@pytest.mark.parametrize(("case", "words"), [
    ("expired", "certificate has expired; renew it"), ("not yet good", "certificate is not yet valid"),
    ("another key", "no certificate and its key"), ("password", "the key has a password"),
    ("no PEM", "no certificate and its key"), ("not there", "cannot be read: No such file or directory"),
])  # fmt: skip
def test_a_certificate_that_cannot_be_used_is_one_line(tmp_path: Path, case: str, words: str) -> None:
    days = {"expired": -1.0, "not yet good": 100.0}.get(case, 30.0)
    certificate, key = make_certificate(tmp_path, "own", days, b"secret" if case == "password" else None)
    if case == "another key":
        key = make_certificate(tmp_path, "other")[1]
    elif case == "no PEM":
        key.write_text("nothing")
    elif case == "not there":
        key.unlink()
    with pytest.raises(GatewatchError, match=words):
        Certificate(certificate, key)
    if case == "expired":
        done = gatewatch(
            "serve", GATEWATCH_TLS_CERT=str(certificate), GATEWATCH_TLS_KEY=str(key), GATEWATCH_MODEL="demo"
        )
        assert refused(done, words)


def test_a_certificate_without_its_key_is_one_line() -> None:
    assert refused(gatewatch("serve", GATEWATCH_TLS_CERT="cert.pem"), "GATEWATCH_TLS_KEY go together")


def test_who_does_not_end_its_handshake_is_cut_off(artefact: Path, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "own")
    tls = {"GATEWATCH_TLS_CERT": str(certificate), "GATEWATCH_TLS_KEY": str(key)}
    with serving(artefact, tmp_path / "data", **tls) as (url, _):
        host, port = url.removeprefix("https://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as silent:
            assert silent.recv(100) == b""  # uvloop would wait a minute


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what a failed handshake leaves behind
def test_redis_is_asked_over_tls_with_its_authority_and_not_without(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server with TLS")
    certificate, key = make_certificate(tmp_path, "redis")
    other, _ = make_certificate(tmp_path, "other")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    tls = {"port": 0, "tls-port": port, "tls-cert-file": certificate, "tls-key-file": key, "tls-auth-clients": "no"}
    options = [word for name, value in tls.items() for word in (f"--{name}", str(value))]
    with subprocess.Popen(["redis-server", *options, "--dir", str(tmp_path)], stdout=subprocess.DEVNULL) as redis:
        try:
            url = f"rediss://127.0.0.1:{port}/0"
            with TestClient(create_app(settings(redis_url=f"{url}?ssl_ca_certs={certificate}"))) as client:
                deadline = time.monotonic() + PATIENCE_S
                while client.get("/readyz").status_code != 200:
                    assert time.monotonic() < deadline
                for start in range(0, 40, 10):
                    reply = client.post("/v1/readings", json=readings("tls", 10, start=start))
                    assert reply.status_code == 200
                assert client.get("/v1/streams/tls").json()["readings"] == 40
            for untrusted in (url, f"{url}?ssl_ca_certs={other}"):
                with TestClient(create_app(settings(redis_url=untrusted))) as client:
                    assert client.post("/v1/readings", json=readings("tls", 1)).status_code == 503
        finally:
            redis.terminate()
