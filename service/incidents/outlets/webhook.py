"""Webhook: tells of incidents that open and end, at least once, whatever becomes of this process or of the receiver.

An event is saved with the reading that caused it. One process claims it, sends it, and takes it off once it was
answered with 2xx; before that nobody is told that it was, and after that it is not sent again. What was not taken is
tried again after as long as it has waited already, between RETRY_S, for as long as the settings say, and then kept
among the dead letters. Nobody waits for any of this.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final
from urllib.parse import quote

import msgspec
import structlog

from gatewatch.service.background import repeat
from gatewatch.service.clock import Clock
from gatewatch.service.core.outcomes import format_time
from gatewatch.service.core.readings import Policies
from gatewatch.service.errors import ServiceError
from gatewatch.service.incidents.event import Event, decode
from gatewatch.service.incidents.incident import number_and_stream
from gatewatch.service.incidents.outlets.sender import NotTaken, Sender
from gatewatch.service.incidents.reading import IncidentReader
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.storage.group_store import MOST_MEMBERS, GroupStore
from gatewatch.service.storage.incident_store import IncidentStore
from gatewatch.service.storage.outbox import Claimed, Outbox

_drawn = random.Random()  # noqa: S311 - it spreads work
log = structlog.get_logger(__name__)

EVERY_S: Final = 2.0
AT_ONCE: Final = 8
RETRY_S: Final = (1.0, 300.0)
LONGEST_PAUSE_S: Final = 60.0
GROUP_S: Final = 20.0
"""After an incident with which a group begins was saved it is told: the others join in, and the first is known."""

LEASE_S: Final = 5.0
"""Beyond the time-out of a delivery: then its process has died."""


class DeadLetter(msgspec.Struct):
    """An event that was given up.

    Attributes:
        id: of the event, as its receiver would have had it.
        type: incident.opened, incident.reopened or incident.ended.
        incident: its id.
        at: when it was saved.
        given_up: when.
        error: what the last try came to, without names of hosts and addresses.
    """

    id: str
    type: str
    incident: str
    at: str
    given_up: str
    error: str


class Webhook:
    """Tells of what is in the outbox, until it is cancelled."""

    def __init__(
        self,
        outbox: Outbox,
        incidents: IncidentStore,
        groups: GroupStore,
        policies: Policies,
        sender: Sender,
        metrics: Metrics,
        clock: Clock,
        *,
        timeout_s: float,
        retry_s: float,
        most_dead: int,
        external_url: str | None,
    ) -> None:
        """Join the parts.

        Args:
            timeout_s: of the sender.
            retry_s: for how long an event is tried again.
            most_dead: dead letters kept of a tenant.
            external_url: where people reach the service, for links.
        """
        self._outbox = outbox
        self._incidents = incidents
        self._groups = groups
        self._policies = policies
        self._sender = sender
        self._metrics = metrics
        self._clock = clock
        self._lease_s = timeout_s + LEASE_S
        self._retry_s = retry_s
        self._most_dead = most_dead
        self._external_url = external_url
        self._failing = False
        self._pause_s = 0.0  # while nobody listens
        self._taken: list[Claimed] = []  # and not yet off the list

    async def run(self) -> None:
        """Tell, look again, and rest while nobody listens. Ends when cancelled."""
        try:
            await repeat(self._tell_some, "events not told", EVERY_S)
        finally:
            await self._sender.close()

    async def _tell_some(self) -> float:
        """Tell the next events; the time until the next ones, in s."""
        await self._take_off()
        await self._drop(await self._outbox.too_many())
        claimed, waiting = await self._outbox.claim(AT_ONCE, self._lease_s)
        self._metrics.webhook_waiting.set(waiting)
        if not claimed:
            return EVERY_S
        taken = await asyncio.gather(*map(self._tell, claimed))
        self._pause_s = 0.0 if any(taken) else min(2 * self._pause_s + 1, LONGEST_PAUSE_S)
        return self._pause_s

    async def _tell(self, claimed: Claimed) -> bool:
        """Tell one event; whether the receiver is not to blame if it is still to be told."""
        try:
            return await self._told(claimed)
        except ServiceError as error:
            log.debug("an event is told later, or again", error=str(error))
            return False

    async def _told(self, claimed: Claimed) -> bool:
        event = decode(claimed.event)
        if event is None:
            await self._outbox.told(claimed)
            return True
        found = await IncidentReader(self._incidents, event.tenant).one(event.incident)
        await self._policies.know([event.key])
        led = found is not None and found[1].group not in ("", event.incident)
        if led or self._policies.is_muted(event.key):  # the incident that its group began with is told
            await self._outbox.told(claimed)
            return True
        now_ms = self._clock.unix_ms()
        group = found[1].group if found is not None else ""
        waited_s = (now_ms - event.at_ms) / 1000
        if group and event.what == "opened" and 0 <= waited_s < GROUP_S:
            await self._outbox.again(claimed, GROUP_S - waited_s)
            return True
        known = (found[2] if found else {}) | (await self._of_group(event.tenant, group) if group else {})
        try:
            await self._sender.send(event.id, self._body(event, known), now_ms // 1000)
        except NotTaken as error:
            await self._not_taken(claimed, event, error, now_ms)
            return False
        self._metrics.webhook("delivered")
        if self._failing:
            self._failing = False
            log.info("the webhook is taken again")
        self._taken.append(claimed)
        await self._take_off()
        return True

    async def _take_off(self) -> None:
        """Save what was taken; what cannot be saved while Redis is away is saved before anything else is sent."""
        while self._taken:
            claimed = self._taken.pop()
            try:
                await self._outbox.told(claimed)
            except BaseException:
                self._taken.append(claimed)
                raise

    async def _not_taken(self, claimed: Claimed, event: Event, error: NotTaken, now_ms: int) -> None:
        self._metrics.webhook("failed")
        if not self._failing:
            self._failing = True
            log.warning("the webhook is not taken; it is tried again", error=str(error))
        waited_s = (now_ms - event.at_ms) / 1000
        if waited_s > self._retry_s:
            await self._give_up(claimed, event, error, now_ms)
            return
        least, most = RETRY_S
        spread = _drawn.uniform(0.8, 1.2)
        await self._outbox.again(claimed, min(max(waited_s, least), most) * spread)

    async def _drop(self, beyond: list[Claimed]) -> None:
        for claimed in beyond:
            if (event := decode(claimed.event)) is None:
                await self._outbox.told(claimed)
            else:
                too_many = NotTaken("too many events waited to be told")
                await self._give_up(claimed, event, too_many, self._clock.unix_ms())

    async def _give_up(self, claimed: Claimed, event: Event, error: NotTaken, now_ms: int) -> None:
        kind, at = f"incident.{event.what}", format_time(event.at_ms)
        letter = DeadLetter(event.id, kind, event.incident, at, format_time(now_ms), error.public)
        await self._outbox.give_up(event.tenant, msgspec.json.encode(letter), now_ms, self._most_dead)
        await self._outbox.told(claimed)
        self._metrics.webhook("dead")
        log.warning("an event is given up", webhook=event.id, error=str(error))

    async def _of_group(self, tenant: str, group: str) -> dict[str, Any]:
        """What is told of the group that an incident began: which of its incidents is the first by its onset."""
        ids = await self._groups.members(tenant, group, 0, MOST_MEMBERS)
        parsed = number_and_stream(ids[0]) if ids else None
        first = None if parsed is None else {"id": ids[0], "stream": parsed[1]}
        return {"group_first": first, "group_incidents": len(ids)}

    def _body(self, event: Event, known: dict[str, Any]) -> bytes:
        """An event as it is sent: its incident as it is now, of which only the id is left where it was forgotten."""
        incident = {"id": event.incident, "stream": event.stream, **known, "tenant": event.tenant}
        if self._external_url:
            incident["url"] = f"{self._external_url}/#/incidents/{quote(event.incident, safe='')}"
        body = {"type": f"incident.{event.what}", "timestamp": format_time(event.at_ms), "data": incident}
        return msgspec.json.encode(body)
