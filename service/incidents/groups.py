"""Groups: incidents that begin about the same time, on streams that belong together, are one cause and one alert.

Streams belong together that have the same value of the tag that the service groups by. Silences are grouped without a
tag too: where a whole fleet stops, its network has. A group has a time, the onset of the incident that began it; an
incident joins if its own onset is near that. Redis is asked in one step, so all processes agree.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import structlog

from gatewatch.service.core.readings import Policies
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import ServiceError
from gatewatch.service.incidents.incident import Incident
from gatewatch.service.storage.group_store import GroupStore, Joining

log = structlog.get_logger(__name__)


class Groups:
    """Finds the groups of incidents that begin."""

    def __init__(self, store: GroupStore, policies: Policies, by: str | None, within_ms: int) -> None:
        """Group by a tag.

        Args:
            by: the name of the tag; None for none, when only silences are grouped.
            within_ms: how far onsets may be apart from that of a group.
        """
        self._store = store
        self._policies = policies
        self._by = by
        self._within_ms = within_ms

    async def joined(self, incidents: Sequence[tuple[StreamKey, Incident]]) -> list[Incident]:
        """Incidents that begin, or are told, with tags and groups; of muted streams, or untold, they have no group.

        Where Redis does not answer they have none either: no reading waits.
        """
        found = [
            incident if incident.tags else msgspec.structs.replace(incident, tags=dict(self._policies.tags(stream)))
            for stream, incident in incidents
        ]
        places: dict[tuple[str, str], list[int]] = {}
        for at, (stream, incident) in enumerate(incidents):
            tag = self._tag_of(stream)
            is_told = incident.untold is None and not self._policies.is_muted(stream)
            if is_told and (tag or incident.is_silence):
                places.setdefault((stream.tenant, tag), []).append(at)
        for (tenant, tag), mine in places.items():
            try:
                groups = await self._store.join(tenant, tag, [self._joining(found[at]) for at in mine])
            except ServiceError as error:
                log.warning("incidents stay without their groups", incidents=len(mine), error=str(error))
                continue
            for at, group in zip(mine, groups, strict=True):
                found[at] = msgspec.structs.replace(found[at], group=group, tag=tag)
        return found

    def _tag_of(self, stream: StreamKey) -> str:
        value = self._policies.tags(stream).get(self._by) if self._by else None
        return f"{self._by}={value}" if value else ""

    def _joining(self, incident: Incident) -> Joining:
        """A slow stream stopped at some time between its last reading and the one that should have come."""
        earliest_ms = incident.last_ms if incident.is_silence else incident.onset_ms
        from_ms, to_ms = earliest_ms - self._within_ms, incident.onset_ms + self._within_ms
        return Joining(incident.id, from_ms, to_ms, incident.onset_ms)
