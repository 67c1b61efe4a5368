"""Access: whether a request may be answered, and for whom. Asked once for each, before its body is read.

    no key is asked for         on a route that needs none; with GATEWATCH_OPEN=always; and with GATEWATCH_OPEN=loopback
                                on a loopback address, as long as there never was a key
    401                         no key, several, or one that is not good: nothing says which of it
    403                         a good key whose scopes do not have the one that the route needs
    503                         Redis has not said for four seconds whether keys were revoked; a key of a file needs no
                                Redis, and /metrics, which tells of the outage, takes what was known before

A key comes as `Authorization: Bearer KEY` or as `X-API-Key: KEY`; one in the URL is not looked at.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Literal

from gatewatch.service.access.identity import Identity
from gatewatch.service.access.key_ring import KeyRing
from gatewatch.service.access.keys import Known, find, has_form
from gatewatch.service.access.oidc import Oidc
from gatewatch.service.access.scopes import SCOPES, Scope, needed
from gatewatch.service.errors import MissingScope, StoreUnavailable, Unauthorized

Open = Literal["loopback", "always", "never"]
Headers = Sequence[tuple[bytes, bytes]]

CREDENTIALS: Final = frozenset((b"authorization", b"x-api-key"))

IDENTITY: Final = "gatewatch.identity"
"""Under this name, a request's scope tells whose it is."""


class Access:
    """Knows who may ask for what."""

    def __init__(self, keys: KeyRing, oidc: Oidc | None, open_to: Open, host: str, tenant: str) -> None:
        """`tenant`: whose streams those see who need no key."""
        self.keys = keys
        self._oidc = oidc
        self._anyone = Identity("anyone", tenant, frozenset(SCOPES))
        self._always = open_to == "always"
        self._while_no_key = open_to == "loopback" and oidc is None and is_loopback(host)

    @property
    def is_open(self) -> bool:
        """Whether no key is needed, as far as is known."""
        return self.seems_open and (self._always or self.keys.is_loaded)

    @property
    def seems_open(self) -> bool:
        """The same, before Redis was asked: what the OpenAPI document goes by."""
        return self._always or (self._while_no_key and not self.keys.any_ever)

    def at_once(self, headers: Headers, scope: Scope) -> Identity | None:
        """Whose a request is, if it is certain without waiting that it may be answered; else `check` has to say."""
        if self.is_open:
            return self._anyone
        shown = None
        for name, value in headers:
            if name in CREDENTIALS:
                if shown is not None:
                    return None
                shown = value if name == b"x-api-key" else value[7:] if value[:7] == b"Bearer " else b""
        key = None if shown is None else find(self.keys.known, shown)
        if key is None or not _is_good(key) or scope not in key.identity.scopes:
            return None
        return key.identity if key.of_file or self.keys.is_fresh() else None

    async def check(self, method: str, path: str, headers: Headers, address: str = "") -> Identity | None:
        """Whose a request is; None where that is not asked.

        Args:
            address: the service's, to which the request came. What came to one beyond loopback needs a key, also where
                another server than `gatewatch serve` listens elsewhere than GATEWATCH_HOST says.

        Raises:
            Unauthorized: no good key.
            MissingScope: it may do other things.
            StoreUnavailable: Redis does not say whether the key is still good.
        """
        scope = needed(method, path)
        if scope is None:
            return self._look(headers)
        if self._always or (self._while_no_key and await self._was_no_key(scope) and not _is_beyond(address)):
            return self._anyone
        identity = await self._identify(_credentials(headers), scope)
        if scope not in identity.scopes:
            raise MissingScope(scope)
        return identity

    async def _was_no_key(self, scope: Scope) -> bool:
        """Whether there never was a key. Raises StoreUnavailable when that is not known."""
        if not self.keys.any_ever and not self.keys.is_loaded:
            try:
                await self.keys.refresh()
            except StoreUnavailable:
                if scope != "metrics":
                    raise
        return not self.keys.any_ever

    def _look(self, headers: Headers) -> Identity | None:
        """Whose a request is that needs no key: some of the answer is for those only who have one."""
        if self.is_open:
            return self._anyone
        shown = _credentials(headers)
        key = find(self.keys.known, shown[0]) if len(shown) == 1 else None
        return key.identity if key is not None and _is_good(key) else None

    async def _identify(self, shown: list[bytes], scope: Scope) -> Identity:
        if len(shown) > 1:
            raise Unauthorized("several keys in one request; expected one, as Authorization: Bearer KEY")
        if not shown:
            raise Unauthorized("no key; expected one, as Authorization: Bearer KEY or X-API-Key: KEY")
        if self._oidc is not None and not has_form(shown[0]):
            return await self._oidc.identify(shown[0])
        key = find(self.keys.known, shown[0])
        if (key is None or not key.of_file) and not self.keys.is_fresh():
            try:
                await self.keys.refresh()
            except StoreUnavailable:
                if scope != "metrics" or key is None:
                    raise
            else:
                key = find(self.keys.known, shown[0])
        if key is None or not _is_good(key):
            raise Unauthorized("the key is not known, has expired or was revoked; expected one that is good")
        return key.identity


def is_loopback(host: str) -> bool:
    """Whether what listens on a host is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


@lru_cache(64)
def _is_beyond(address: str) -> bool:
    try:
        return not ipaddress.ip_address(address).is_loopback
    except ValueError:  # a unix socket, or a test's name
        return False


def _credentials(headers: Headers) -> list[bytes]:
    """Every key that a request shows; of another scheme than Bearer, an empty one."""
    shown = []
    for name, value in headers:
        if name not in CREDENTIALS:
            continue
        if name == b"authorization":
            scheme, _, rest = value.partition(b" ")
            shown.append(rest.strip() if scheme.lower() == b"bearer" else b"")
        else:
            shown.append(value.strip())
    return shown


def _is_good(key: Known) -> bool:
    return not key.revoked and time.time() < key.expires
