"""Audit: who changed what, in Redis, the last MOST changes of each tenant; and in the log, which is kept elsewhere."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import structlog

from gatewatch.service.access.redis_keys import of_tenant
from gatewatch.service.errors import StoreUnavailable
from gatewatch.service.storage.database import Database

log = structlog.get_logger(__name__)

MOST: Final = 10_000
"""Changes kept of a tenant; of more, the oldest go."""

DETAIL: Final = "gatewatch.audit"
"""Under this name, a handler may leave in a request's scope what was changed to what."""

CHANGE: Final = r"^(\d{1,19}-\d{1,19})?$"
"""How the id of a change looks."""

NOT_OURS: Final = (msgspec.MsgspecError, RecursionError, TypeError)
LONGEST: Final = 4096
"""Bytes of one change."""

TOO_LONG: Final = "too long"
"""In place of what was changed, where that is."""


class Change(msgspec.Struct):
    """One change. `id` rises; it is the `before` of the next page."""

    id: str
    at: str
    who: str
    what: str
    target: str
    detail: Any = None


class Audit:
    """The log of changes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def note(self, tenant: str, who: str, what: str, target: str, detail: Any = None) -> None:
        """Keep one change, which has been made. Where Redis does not take it, the log alone has it."""
        change = {"who": who, "what": what, "target": target[:256], "detail": detail}
        if len(msgspec.json.encode(change)) > LONGEST:
            change["detail"] = TOO_LONG
        log.info("changed", tenant=tenant, **change)
        entry = msgspec.json.encode(change)
        try:
            async with self._database.within("note a change"):
                await self._database.ask_one(
                    b"XADD",
                    of_tenant(tenant, "audit"),
                    b"MAXLEN",
                    b"~",
                    b"%d" % MOST,
                    b"*",
                    b"change",
                    entry,
                    twice=False,
                )
            await self._database.replicated([of_tenant(tenant, "audit")])
        except StoreUnavailable as error:
            log.error("a change may be in this log only", error=str(error))

    async def last(self, tenant: str, before: str, limit: int) -> list[Change]:
        """The last changes of a tenant, newest first, that lie before an id; all with an empty one."""
        if before and not any(map(int, before.split("-"))):  # Redis knows nothing before its first id
            return []
        end = f"({before}".encode() if before else b"+"
        async with self._database.within("look at the changes"):
            found = await self._database.ask_one(
                b"XREVRANGE", of_tenant(tenant, "audit"), end, b"-", b"COUNT", b"%d" % limit
            )
        changes = []
        for number, fields in found or ():
            at = datetime.fromtimestamp(int(number.partition(b"-")[0]) / 1000, UTC).isoformat(timespec="milliseconds")
            with contextlib.suppress(*NOT_OURS):  # what others have put there is left out
                said = msgspec.json.decode(fields[1], type=dict[str, Any])
                changes.append(msgspec.convert({**said, "id": number.decode(), "at": at}, Change))
        return changes
