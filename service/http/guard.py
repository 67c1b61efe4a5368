"""Guard: what every request passes before it is answered, and every answer before it leaves.

caller     by whose page a browser was made to send it (callers.py)
access     whether its key may do this, and whose streams it sees (service/access)
limits     how many requests of its kind the tenant may send in a second
audit      what an answer says was changed is noted before the answer leaves
headers    which keep a browser from taking an answer for something else, or from keeping it
"""

from __future__ import annotations

import contextlib
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

from gatewatch.service.access.access import IDENTITY, Access
from gatewatch.service.access.audit import DETAIL, Audit
from gatewatch.service.access.identity import Identity
from gatewatch.service.access.quotas import RequestLimits
from gatewatch.service.access.scopes import needed, route_of
from gatewatch.service.errors import ServiceError, StoreUnavailable, Unauthorized, cause_of
from gatewatch.service.http.bodies import Receive
from gatewatch.service.http.callers import Callers
from gatewatch.service.http.ingest import Scope, Send, stream_in

log = structlog.get_logger(__name__)

HEADERS: Final = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
"""Of every answer that has none of its own, but for those to readings, which no browser sends; the server gives all of
them `nosniff`. No header lets a page of another origin read anything (CORS)."""


class Guard:
    """Asks callers and access, and tells the audit."""

    def __init__(self, callers: Callers, access: Access, limits: RequestLimits, audit: Audit) -> None:
        self._callers = callers
        self._access = access
        self._limits = limits
        self._audit = audit

    async def admit(self, scope: Scope, send: Send) -> Send:
        """Let a request in, and note in its scope whose it is; what its answer is sent with from here on.

        Raises:
            ServiceError: what it is refused with.
        """
        method, path = scope["method"], scope["path"]
        self._callers.check(method, scope["headers"])
        try:
            identity = scope[IDENTITY] = await _identity(self._access, scope)
        except StoreUnavailable as error:
            log.warning("request not answered", path=path[:256], error=str(error), cause=cause_of(error))
            raise
        asked = needed(method, path)
        if identity is None or asked is None:
            return send
        changes = method not in ("GET", "HEAD", "OPTIONS") and asked in ("operate", "admin")
        self._limits.count(identity.tenant, changes, asked)
        return self._noting(scope, send) if changes else send

    def asking_again(self, scope: Scope, receive: Receive) -> Receive:
        """What a request's body is received with from here on: once that is whole, its key has to be good still."""

        begun = False  # a request without a body has nothing to be asked again for

        async def receiving() -> MutableMapping[str, Any]:
            nonlocal begun
            message = await receive()
            if message["type"] == "http.request":
                more = message.get("more_body", False)
                begun = begun or bool(message.get("body")) or more
                if begun and not more:
                    await require_still_admitted(self._access, scope)
            return message

        return receiving

    def _noting(self, scope: Scope, send: Send) -> Send:
        method, target, identity = scope["method"], scope["path"], scope[IDENTITY]
        what = f"{method} {route_of(method, target)}"

        async def noting(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                await self._audit.note(identity.tenant, identity.name, what, target, scope.get(DETAIL))
            await send(message)

        return noting

    def with_headers(self, scope: Scope, send: Send) -> Send:
        """What sends an answer with HEADERS, where a browser may ask for it."""
        if scope["method"] == "POST":
            with contextlib.suppress(LookupError):
                stream_in(scope["path"])
                return send

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message.get("headers", ())}
                more = [header for header in HEADERS if header[0] not in present]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        return sending


async def require_still_admitted(access: Access, scope: Scope) -> None:
    """Let a request in again: since it was, its key may have been revoked, or expired. Raises as `Guard.admit`."""
    if await _identity(access, scope) != scope[IDENTITY]:
        raise Unauthorized("what the key may do was changed while the request was sent; send it again")


async def is_still_admitted(access: Access, scope: Scope) -> bool:
    """Whether a request that was let in would be let in again."""
    try:
        await require_still_admitted(access, scope)
    except ServiceError:
        return False
    return True


async def _identity(access: Access, scope: Scope) -> Identity | None:
    address = (scope.get("server") or ("",))[0]
    return await access.check(scope["method"], scope["path"], scope["headers"], address)
