"""Sender: one signed POST to the address of the settings, and whether it was taken.

It is signed as https://www.standardwebhooks.com says: the headers webhook-id (the same each time that an event is
sent), webhook-timestamp (Unix seconds) and webhook-signature, `v1,` and HMAC-SHA256 in base64 over "ID.TIMESTAMP.BODY".
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ssl
from pathlib import Path
from typing import Final

import httpx2

from gatewatch.models.errors import GatewatchError
from gatewatch.service.incidents.outlets.addresses import NoAddress, Resolver

PREFIX: Final = "whsec_"
LEAST_SECRET: Final = 16
LARGEST_SECRET: Final = 4096


class NotTaken(Exception):
    """A webhook was not delivered, as far as is known; the message says why, and is for the log.

    Attributes:
        public: why, for whoever may read incidents: without names of hosts and addresses.
    """

    def __init__(self, public: str, cause: str | None = None) -> None:
        """`cause`: more than everybody may read."""
        super().__init__(public if cause is None else f"{public}: {cause}")
        self.public = public


def secret_of(path: Path) -> bytes:
    """The key in a file: base64 behind `whsec_`, or else the text itself. Raises GatewatchError."""
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_SECRET + 1).strip()
        secret = base64.b64decode(text[len(PREFIX) :], validate=True) if text.startswith(PREFIX.encode()) else text
    except OSError as error:
        raise GatewatchError(f"{path}: the webhook's secret cannot be read ({error.strerror})") from error
    except binascii.Error as error:
        raise GatewatchError(f"{path}: what stands behind {PREFIX} is no base64") from error
    if not LEAST_SECRET <= len(secret) <= LARGEST_SECRET:
        raise GatewatchError(f"{path}: the secret has {len(secret)} bytes; expected {LEAST_SECRET} to {LARGEST_SECRET}")
    return secret


def signature(secret: bytes, event: str, timestamp: int, body: bytes) -> str:
    """The value of the header webhook-signature."""
    signed = f"{event}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


class Sender:
    """Sends to one URL. Follows no redirect, asks no proxy, keeps no cookie."""

    def __init__(self, url: str, secret: bytes, resolver: Resolver, timeout_s: float) -> None:
        """`timeout_s`: for all of one delivery, the look-up of the name and the answer included."""
        self._url = httpx2.URL(url)
        self._secret = secret
        self._resolver = resolver
        self._timeout_s = timeout_s
        self._client: httpx2.AsyncClient | None = None

    async def send(self, event: str, body: bytes, timestamp: int) -> None:
        """Send a body; returns once it was answered with 2xx. Raises NotTaken."""
        url, host = self._url, self._url.host
        headers = {
            "host": url.netloc.decode(),
            "content-type": "application/json",
            "user-agent": "gatewatch",
            "webhook-id": event,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self._secret, event, timestamp, body),
        }
        try:
            async with asyncio.timeout(self._timeout_s):
                address = await self._resolver.address(host, url.port or (443 if url.scheme == "https" else 80))
                request = self._opened().stream(
                    "POST",
                    url.copy_with(host=address),
                    headers=headers,
                    content=body,
                    extensions={"sni_hostname": host},
                )
                async with request as reply:  # what it says beyond its status is not read
                    status = reply.status_code
        except TimeoutError as error:
            raise NotTaken(f"no answer within {self._timeout_s:g} s") from error
        except NoAddress as error:
            raise NotTaken("its host has no address that may be contacted", str(error)) from error
        except httpx2.HTTPError as error:
            raise NotTaken("it does not answer", f"{host}: {error or type(error).__name__}") from error
        if 300 <= status < 400:
            raise NotTaken(f"it answered {status}, a redirect, which is not followed")
        if not 200 <= status < 300:
            raise NotTaken(f"it answered {status}")

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _opened(self) -> httpx2.AsyncClient:
        if self._client is None:
            self._client = httpx2.AsyncClient(
                verify=ssl.create_default_context(),
                timeout=self._timeout_s,
                trust_env=False,
                follow_redirects=False,
            )
        return self._client
