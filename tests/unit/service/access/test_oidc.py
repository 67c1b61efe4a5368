"""Tokens of an identity provider, with a provider that is a real HTTP server, and tokens that try to get past it."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.testclient import TestClient

from gatewatch.service.access import oidc as oidc_module
from gatewatch.service.access.identity import Identity
from gatewatch.service.access.oidc import Oidc
from gatewatch.service.app import create_app
from gatewatch.service.errors import ProviderUnavailable, Unauthorized
from gatewatch.service.settings import Settings
from tests.support.access import bearer
from tests.support.samples import readings

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CURVE = ec.generate_private_key(ec.SECP256R1())


class Provider:
    """An identity provider. `answers` is what it says at which path; `asked` counts requests."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked = 0
        described = [
            json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key()))
            | {"kid": "one", "use": "sig", "alg": "RS256"},
            json.loads(jwt.algorithms.ECAlgorithm.to_jwk(CURVE.public_key())) | {"kid": "two"},
            {"kty": "oct", "kid": "secret", "k": base64.urlsafe_b64encode(b"x" * 32).decode()},
            {"kty": "unheard of"},
            {"kty": ["RSA"], "kid": [1]},
            {"kty": "RSA", "kid": "three", "n": 5, "e": {}},
            {"kty": "EC", "kid": "four", "crv": 1, "x": "-", "y": "-"},
        ]
        self.answers: dict[str, Any] = {
            "/.well-known/openid-configuration": {"issuer": url, "jwks_uri": f"{url}/keys"},
            "/keys": {"keys": described},
        }

    def token(self, key: Any = KEY, algorithm: str = "RS256", kid: str | None = "one", **claims: Any) -> bytes:
        said = {"iss": self.url, "aud": "gatewatch", "sub": "device-7", "exp": time.time() + 600, "scope": ""}
        said = {name: value for name, value in {**said, **claims}.items() if value is not None}
        return jwt.encode(said, key, algorithm, {"kid": kid} if kid else {}).encode()


@contextmanager
def provider() -> Iterator[Provider]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            running.asked += 1
            found = running.answers.get(self.path)
            content = found if isinstance(found, bytes) else json.dumps(found).encode()
            self.send_response(200 if found is not None else 404)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running = Provider(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_good_token_brings_its_scopes_and_its_tenant() -> None:
    with provider() as there:
        oidc = Oidc(there.url, "gatewatch", "default")

        async def ask() -> None:
            found = await oidc.identify(there.token(scope="openid gatewatch:ingest gatewatch:read read"))
            assert found == Identity("oidc device-7", "default", frozenset({"ingest", "read"}))
            token = there.token(CURVE, "ES256", "two", scope=["gatewatch:admin"], **{"gatewatch.tenant": "plant-2"})
            assert (await oidc.identify(token)).tenant == "plant-2"
            assert "operate" in (await oidc.identify(token)).scopes
            assert (await oidc.identify(there.token(scope=7))).scopes == frozenset()

        asyncio.run(ask())
        assert there.asked == 2


def test_no_other_token_is_taken() -> None:
    """None tells more than that it is not good."""
    with provider() as there:
        pem = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        head = base64.urlsafe_b64encode(json.dumps({"alg": "none", "kid": "one"}).encode()).rstrip(b"=")
        good = there.token()
        now = time.time()
        bad = {
            "expired": there.token(exp=now - 60),
            "not yet good": there.token(nbf=now + 600),
            "for others": there.token(aud="another"),
            "of another issuer": there.token(iss="https://evil.example"),
            "without an end": there.token(exp=None),
            "without a subject": there.token(sub=None),
            "signed by another": there.token(OTHER),
            "of an unknown key": there.token(OTHER, kid="three"),
            "of no key": there.token(kid=None),
            "unsigned": head + b"." + good.split(b".")[1] + b".",
            "with a secret of the provider": there.token(b"x" * 32, "HS256", "secret"),
            "with the public key as a secret": hs256(there, pem),
            "another algorithm than the key's": there.token(KEY, "RS512"),
            "changed": good[:-2] + (b"AA" if good[-2:] != b"AA" else b"BB"),
            "a tenant that is none": there.token(**{"gatewatch.tenant": "a:b"}),
            "nested": b"." * 100,
            "empty": b"",
            "large": b"e" * 2**20,
            "no text": b"\xff\xfe.\x00.\x00",
        }
        oidc = Oidc(there.url, "gatewatch", "default")

        async def ask() -> None:
            assert await oidc.identify(good)
            for why, token in bad.items():
                try:
                    await oidc.identify(token)
                except Unauthorized:
                    continue
                pytest.fail(why)

        asyncio.run(ask())
        assert there.asked == 2  # tokens that name unknown keys do not have the provider asked each time


def hs256(there: Provider, secret: bytes) -> bytes:
    """As an attacker signs who takes the public key for a secret; PyJWT refuses to."""
    import hashlib
    import hmac

    def encoded(part: Any) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")

    claims = {"iss": there.url, "aud": "gatewatch", "sub": "x", "exp": time.time() + 600, "scope": "gatewatch:admin"}
    signed = encoded({"alg": "HS256", "kid": "one"}) + b"." + encoded(claims)
    signature = base64.urlsafe_b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).rstrip(b"=")
    return signed + b"." + signature


@pytest.mark.parametrize("broken", [
    {"/.well-known/openid-configuration": None}, {"/.well-known/openid-configuration": b"no JSON"},
    {"/.well-known/openid-configuration": {"issuer": "https://evil.example", "jwks_uri": "x"}},
    {"/keys": {}}, {"/keys": {"keys": []}}, {"/keys": {"keys": [1]}}, {"/keys": b" " * (2**20 + 1)}, {"/keys": []},
])  # fmt: skip
def test_a_provider_whose_keys_cannot_be_had_is_503_and_asked_again_later(
    broken: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with provider() as there:
        good, oidc = {**there.answers}, Oidc(there.url, "gatewatch", "default")
        there.answers.update(broken)

        async def ask() -> None:
            token = there.token()
            for _ in range(3):
                with pytest.raises(ProviderUnavailable):
                    await oidc.identify(token)
            assert there.asked <= 2
            there.answers.update(good)
            monkeypatch.setattr(oidc_module, "RETRY_S", 0.0)
            assert await oidc.identify(token)
            there.answers.update(broken)
            monkeypatch.setattr(oidc_module, "RENEW_S", 0.0)
            assert await oidc.identify(there.token(sub="another"))  # its keys of before go on
            monkeypatch.setattr(oidc_module, "KEEP_S", 0.0)
            with pytest.raises(ProviderUnavailable):
                await oidc.identify(there.token(sub="third"))

        asyncio.run(ask())


def test_the_service_takes_tokens_beside_keys(settings: Callable[..., Settings], tenant: str) -> None:
    with provider() as there, TestClient(create_app(settings(oidc_issuer=there.url))) as client:
        reader = bearer(there.token(scope="gatewatch:read").decode())
        assert client.get("/v1/streams").status_code == 401
        writer = bearer(there.token(scope="gatewatch:ingest").decode())
        assert client.post("/v1/readings", json=readings("s", 1), headers=writer).status_code == 200
        assert client.get("/v1/streams", headers=reader).json()["total"] == 1
        assert client.post("/v1/readings", json=[], headers=reader).status_code == 403
        foreign = bearer(there.token(scope="gatewatch:read", **{"gatewatch.tenant": "another"}).decode())
        assert client.get("/v1/streams", headers=foreign).json()["total"] == 0
    with TestClient(create_app(settings(oidc_issuer="http://127.0.0.1:1"))) as client:
        reply = client.get("/v1/streams", headers=reader)
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
        assert client.get("/livez").status_code == 200
