"""Certificates: TLS of the service, with a certificate that is read again when its files change.

Every handshake asks which context to go on with (`sni_callback`, which is called for clients that name no host, too).
So a new certificate takes effect with the next connection, in the event loop's own thread; connections of before go on.
A certificate that cannot be used changes nothing: the one before it stays, and the log says why.
"""

from __future__ import annotations

import ssl
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog
import uvloop

from gatewatch.models.errors import GatewatchError

log = structlog.get_logger(__name__)

LOOK_S: Final = 1.0
"""Between two looks whether the files have changed; there is none without a connection."""

SOON_S: Final = 14 * 86_400.0
REMIND_S: Final = 86_400.0
HANDSHAKE_S: Final = 5.0
"""For a client to end its handshake; before that it is no connection that is counted."""


class Certificate:
    """A certificate with its key, and the contexts made of them.

    Attributes:
        context: for the server; whoever connects gets the certificate of now.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises GatewatchError, in one line, for what cannot be used."""
        self._certificate, self._key = certificate, key
        self._stamp = self._stamp_of_now()
        self.context, self._expires = _load(certificate, key)
        self._current = self.context
        self._looked = time.monotonic()
        self._reminded = float("-inf")
        self.context.sni_callback = self._choose
        self._remind()

    def _choose(self, connection: ssl.SSLObject, *_: Any) -> None:
        """Have a handshake go on with the certificate of now."""
        if time.monotonic() - self._looked > LOOK_S:
            self._looked = time.monotonic()
            self._look()
        connection.context = self._current

    def _look(self) -> None:
        stamp = self._stamp_of_now()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._current, self._expires = _load(self._certificate, self._key)
            except GatewatchError as error:
                log.error("the certificate of before goes on", error=str(error))
            else:
                self._reminded = float("-inf")
                log.info("certificate read", expires=_shown(self._expires))
        self._remind()

    def _remind(self) -> None:
        """Say once a day that the certificate ends soon, or has."""
        left_s = self._expires - time.time()
        if left_s < SOON_S and time.monotonic() - self._reminded > REMIND_S:
            self._reminded = time.monotonic()
            say = log.warning if left_s > 0 else log.error
            say(f"the certificate {'expires soon' if left_s > 0 else 'has expired'}", expires=_shown(self._expires))

    def _stamp_of_now(self) -> tuple[Any, ...]:
        """What is another one after each change of the files; a file that is not there counts as well."""
        stamps: list[tuple[int, ...]] = []
        for path in (self._certificate, self._key):
            try:
                found = path.stat()
                stamps.append((found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))
            except OSError:
                stamps.append(())
        return tuple(stamps)


class Loop(uvloop.Loop):
    """An event loop whose TLS servers do not wait a minute for a handshake."""

    async def create_server(self, *arguments: Any, **options: Any) -> Any:
        """As uvloop does it, with HANDSHAKE_S."""
        if options.get("ssl") is not None:
            options.setdefault("ssl_handshake_timeout", HANDSHAKE_S)
        return await super().create_server(*arguments, **options)


def server_context(certificate: Path, key: Path, *_: Any) -> ssl.SSLContext:
    """The context of a server, as uvicorn asks for it. Raises GatewatchError."""
    return Certificate(certificate, key).context


def _load(certificate: Path, key: Path) -> tuple[ssl.SSLContext, float]:
    """A context with a certificate that is good now, and when it expires, in Unix seconds."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for path in (certificate, key):
        try:
            path.open("rb").close()
        except OSError as error:
            raise GatewatchError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        why = getattr(error, "reason", None) or str(error)
        raise GatewatchError(
            f"{certificate} and {key} are no certificate and its key, in PEM and without a password: {why}"
        ) from error
    return context, _expiry(context, certificate)


def _no_password() -> str:
    raise ValueError("the key has a password")


def _expiry(context: ssl.SSLContext, certificate: Path) -> float:
    """When the certificate of a context expires. Raises GatewatchError unless it is good now.

    A client that trusts this very certificate makes a handshake with the context, in memory.
    """
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    trusting.load_verify_locations(certificate)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(back, there)
    server = context.wrap_bio(there, back, server_side=True)
    waiting = [client, server]
    try:
        while waiting:
            side = waiting.pop(0)
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                waiting.append(side)
    except ssl.SSLCertVerificationError as error:
        raise GatewatchError(f"{certificate}: {error.verify_message}; renew it") from error
    found = client.getpeercert()
    assert found is not None  # noqa: S101 - it was verified
    return float(ssl.cert_time_to_seconds(str(found["notAfter"])))


def _shown(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
