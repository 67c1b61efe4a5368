"""Voices: which incident of a group is posted: the one that it began with, unless its stream is muted by then."""

from __future__ import annotations

from typing import Final

from gatewatch.service.core.readings import Policies
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.incidents.event import Event
from gatewatch.service.incidents.incident import Incident, number_and_stream
from gatewatch.service.incidents.reading import IncidentReader
from gatewatch.service.storage.group_store import GroupStore
from gatewatch.service.storage.incident_store import IncidentStore

LOOKED_AT: Final = 20
"""Incidents of a group that are read to tell which is its first, or stands in for that; more of them only count."""


class Voices:
    """Finds who speaks for a group."""

    def __init__(self, incidents: IncidentStore, groups: GroupStore, policies: Policies) -> None:
        self._incidents = incidents
        self._groups = groups
        self._policies = policies

    async def speaks(self, event: Event, group: str) -> bool:
        """Whether an event is to be posted, if by another incident's name; `group`: of its incident, "" for none.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        await self._policies.know([event.key])
        if group and event.what == "opened":
            return group == event.incident  # who then speaks for it is known by `speaker`
        if self._policies.is_muted(event.key):
            return False
        return not group or event.incident == (await self._groups.stand_in(event.tenant, group) or group)

    async def speaker(self, event: Event, began: Incident) -> Event | None:
        """The event of a group that opened as it is posted; None where nobody is left to speak for it.

        That is of the incident which the group began with; where its stream is muted, of the first one that is open
        and is not, which then speaks for the group to its end. So it does where this is tried again, however it stands
        by then: it may have been told of, though nobody knows.

        Args:
            began: the incident which the group began with.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        if stand_in := await self._groups.stand_in(event.tenant, began.group):
            n, stream = number_and_stream(stand_in) or (began.n, began.stream)
            return Event(event.what, event.at_ms, event.tenant, n, stream)
        if not self._policies.is_muted(event.key):
            return event
        ids, _ = await self._groups.first_members(event.tenant, began.group, LOOKED_AT)
        known = [one for one in await IncidentReader(self._incidents, event.tenant).kept(ids) if one.is_open]
        streams = [StreamKey(event.tenant, one.stream) for one in known]
        await self._policies.know(streams)
        heard = [one for one, stream in zip(known, streams, strict=True) if not self._policies.is_muted(stream)]
        if not heard:
            return None
        await self._groups.let_stand_in(event.tenant, began.group, heard[0].id)
        return Event(event.what, event.at_ms, event.tenant, heard[0].n, heard[0].stream)

    async def of_group(self, tenant: str, began: Incident) -> dict[str, object]:
        """What is told of a group: which of its incidents is the first by its onset, and how many there are.

        Of the first LOOKED_AT, those that were never saved, or were forgotten, do not count.

        Args:
            began: one of its incidents.
        """
        ids, listed = await self._groups.first_members(tenant, began.group, LOOKED_AT)
        kept = await IncidentReader(self._incidents, tenant).kept(ids)
        first = kept[0] if kept else began
        count = listed - len(ids) + len(kept)
        return {"group_first": {"id": first.id, "stream": first.stream}, "group_incidents": count}
