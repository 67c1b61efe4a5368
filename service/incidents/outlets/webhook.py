"""Webhook: tells of incidents that open and end, at least once, whatever becomes of this process or of the receiver.

An event is saved with the reading that caused it. One process claims it, sends it, and takes it off once it was
answered with 2xx; before that nobody is told that it was, and after that it is not sent again. What was not taken is
tried again after as long as it has waited already, between RETRY_S, for as long as the settings say, and then kept
among the dead letters. Nobody waits for any of this.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec
import structlog

from gatewatch.service.background import repeat
from gatewatch.service.clock import Clock
from gatewatch.service.core.outcomes import format_time
from gatewatch.service.core.readings import Policies
from gatewatch.service.errors import ServiceError
from gatewatch.service.incidents.event import EVENTS, Event, decode
from gatewatch.service.incidents.outlets.sender import NotTaken, Sender
from gatewatch.service.incidents.outlets.voices import Voices
from gatewatch.service.incidents.reading import IncidentReader
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.storage.group_store import GroupStore
from gatewatch.service.storage.incident_store import IncidentStore
from gatewatch.service.storage.outbox import Claimed, Outbox

_drawn = random.Random()  # noqa: S311 - it spreads work
log = structlog.get_logger(__name__)

EVERY_S: Final = 2.0
AT_ONCE: Final = 8
RETRY_S: Final = (1.0, 300.0)
LONGEST_PAUSE_S: Final = 60.0
GROUP_S: Final = 20.0
"""After an event of a group was saved it is told: until then the others join in, and the first is known."""

APART_S: Final = 0.1
"""Between events of a group that were saved together, so that they are told in their order."""

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
        self._voices = Voices(incidents, groups, policies)
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
        self._dropped: dict[str, list[Event]] = {}  # by tenant; off the list, and not yet among the dead letters

    async def run(self) -> None:
        """Tell, look again, and rest while nobody listens. Ends when cancelled."""
        try:
            await repeat(self._tell_some, "events not told", EVERY_S)
        finally:
            await self._sender.close()

    async def _tell_some(self) -> float:
        """Tell the next events; the time until the next ones, in s."""
        await self._take_off()
        await self._bury()
        claimed, waiting = await self._outbox.claim(AT_ONCE, self._lease_s)
        self._metrics.webhook_waiting.set(sum(waiting.values()))
        taken = await asyncio.gather(*map(self._tell, claimed))
        await self._drop(waiting)
        if not claimed:
            return EVERY_S
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
        reader = IncidentReader(self._incidents, event.tenant)
        found = await reader.one(event.incident)
        group = found[1].group if found else ""
        if not await self._voices.speaks(event, group):
            await self._outbox.told(claimed)
            return True
        now_ms = self._clock.unix_ms()
        first_s = GROUP_S if found is None or group else 0.0  # one that was forgotten may have had a group
        waited_s = (now_ms - event.at_ms) / 1000 - first_s
        if -2 * first_s <= waited_s < 0:  # saved by a clock that is ahead, too
            await self._outbox.again(claimed, APART_S * EVENTS.index(event.what) - waited_s)
            return True
        if found is not None and group and event.what == "opened":
            speaker = await self._voices.speaker(event, found[1])
            if speaker is None:
                await self._outbox.told(claimed)
                return True
            if speaker is not event:
                event, found = speaker, await reader.one(speaker.incident)
        known = found[2] if found else {}
        if found is not None and group:
            known |= await self._voices.of_group(event.tenant, found[1])
        try:
            await self._sender.send(event.id, self._body(event, known), now_ms // 1000)
        except NotTaken as error:
            await self._not_taken(claimed, event, error, now_ms, waited_s)
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

    async def _not_taken(self, claimed: Claimed, event: Event, error: NotTaken, now_ms: int, waited_s: float) -> None:
        """Try an event again later, or give it up; `waited_s`: since it was to be told first."""
        self._metrics.webhook("failed")
        if not self._failing:
            self._failing = True
            log.warning("the webhook is not taken; it is tried again", error=str(error))
        if waited_s > self._retry_s:
            await self._give_up(claimed, event, error, now_ms)
            return
        least, most = RETRY_S
        spread = _drawn.uniform(0.8, 1.2)
        await self._outbox.again(claimed, min(max(waited_s, least), most) * spread)

    async def _drop(self, waiting: Mapping[bytes, int]) -> None:
        """Give up what waits beyond those that may, by how many do in each bucket."""
        for event in map(decode, await self._outbox.take_surplus(waiting, self._lease_s)):
            if event is not None:
                self._dropped.setdefault(event.tenant, []).append(event)
        await self._bury()

    async def _bury(self) -> None:
        """Keep what was dropped; what cannot be kept while Redis is away is kept before anything else is sent."""
        error, now_ms = NotTaken("too many events waited to be told"), self._clock.unix_ms()
        while self._dropped:
            tenant, events = next(iter(self._dropped.items()))
            await self._keep_dead(tenant, events, error, now_ms)
            del self._dropped[tenant]

    async def _give_up(self, claimed: Claimed, event: Event, error: NotTaken, now_ms: int) -> None:
        await self._keep_dead(event.tenant, [event], error, now_ms)
        await self._outbox.told(claimed)

    async def _keep_dead(self, tenant: str, events: Sequence[Event], error: NotTaken, now_ms: int) -> None:
        """Keep events of a tenant among the dead letters."""
        letters = [
            msgspec.json.encode(
                DeadLetter(
                    event.id,
                    f"incident.{event.what}",
                    event.incident,
                    format_time(event.at_ms),
                    format_time(now_ms),
                    error.public,
                )
            )
            for event in events
        ]
        await self._outbox.give_up(tenant, letters, now_ms, self._most_dead)
        for event in events:
            self._metrics.webhook("dead")
            log.warning("an event is given up", webhook=event.id, error=str(error))

    def _body(self, event: Event, known: dict[str, Any]) -> bytes:
        """An event as it is sent: its incident as it is now, of which only the id is left where it was forgotten."""
        incident = {"id": event.incident, "stream": event.stream, **known, "tenant": event.tenant}
        if self._external_url:
            incident["url"] = f"{self._external_url}/#/incidents/{quote(event.incident, safe='')}"
        body = {"type": f"incident.{event.what}", "timestamp": format_time(event.at_ms), "data": incident}
        return msgspec.json.encode(body)
