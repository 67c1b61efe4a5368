"""IncidentReader: incidents as the HTTP API shows them, one, or those that fit a search, page by page."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gatewatch.service.core.outcomes import format_time
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.incidents import words
from gatewatch.service.incidents.incident import Incident, RaisedAlert, decode, id_of, number_and_stream
from gatewatch.service.storage.group_store import GroupStore
from gatewatch.service.storage.incident_store import IncidentStore, Listed

SCANNED: Final = 10_000
"""Incidents looked at for one page; `next` goes on from there, though the page may not be full."""

CHUNK: Final = 500


@dataclass(frozen=True)
class Search:
    """Which incidents are looked for; None and "" stand for any.

    Attributes:
        state: open or ended.
        stream: a pattern of names, `*` for anything.
        reason: of the reading with the highest score.
        tag: name and value, as site=north, or a name alone, that its stream had.
        min_score: least highest score.
        since_ms, until_ms: between which times they began; not asked of a group.
    """

    state: str | None = None
    stream: str = ""
    reason: str | None = None
    tag: str = ""
    min_score: float = 0.0
    since_ms: int = 0
    until_ms: int = 2**53

    def fits(self, incident: Incident) -> bool:
        """Whether an incident of a stream that fits is one of them."""
        state = "open" if incident.is_open else "ended"
        return (
            self.state in (None, state)
            and self.reason in (None, incident.reason)
            and has_tag(incident.tags, self.tag)
            and incident.peak_score >= self.min_score
        )

    def fits_stream(self, name: str) -> bool:
        """Whether a stream is one of them."""
        return not self.stream or fnmatch.fnmatchcase(name, self.stream.replace("[", "[[]"))


def has_tag(tags: Mapping[str, str], wanted: str) -> bool:
    """Whether a stream has a tag: name=value, a name alone for any value, or "" for any tags."""
    name, given, value = wanted.partition("=")
    return not name or (name in tags and (not given or tags[name] == value))


class IncidentReader:
    """Reads the incidents of one tenant."""

    def __init__(self, store: IncidentStore, tenant: str) -> None:
        self._store = store
        self._tenant = tenant

    async def page(self, search: Search, after: str, most: int) -> tuple[list[dict[str, Any]], str | None]:
        """Up to `most` incidents, those that began last first, and where to go on; None at the end.

        Args:
            after: where the page before ended, as it said; or "".
        """
        place: Listed | None = None
        if after:
            moment, _, id_ = after.partition("_")
            place = Listed(int(moment), id_.encode()) if int(moment) <= search.until_ms else None
        found: list[dict[str, Any]] = []
        scanned = 0
        while scanned < SCANNED:
            listed = await self._store.listed(self._tenant, search.until_ms, search.since_ms, CHUNK, after=place)
            scanned += len(listed)
            named = [(id_.decode(), at) for at, id_ in listed if search.fits_stream(id_.decode().partition(".")[2])]
            for (id_, at), shown in zip(named, await self._shown([id_ for id_, _ in named]), strict=True):
                if shown is None or not search.fits(shown[0]):
                    continue
                found.append(shown[1])
                if len(found) == most:
                    return found, f"{at}_{id_}"
            if len(listed) < CHUNK:
                return found, None
            place = listed[-1]
        return found, None if place is None else f"{place.at_ms}_{place.id.decode()}"

    async def of_group(
        self, groups: GroupStore, group: str, search: Search, after: str, most: int
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Up to `most` incidents of a group, in the order of their onset, and where to go on; None at the end."""
        place = int(after.partition("_")[0]) if after else 0
        found: list[dict[str, Any]] = []
        while True:
            ids = await groups.members(self._tenant, group, place, CHUNK)
            for at, (id_, shown) in enumerate(zip(ids, await self._shown(ids), strict=True), place + 1):
                if shown is not None and search.fits_stream(shown[0].stream) and search.fits(shown[0]):
                    found.append(shown[1])
                    if len(found) == most:
                        return found, f"{at}_{id_}"
            if len(ids) < CHUNK:
                return found, None
            place += len(ids)

    async def one(self, incident_id: str) -> tuple[StreamKey, Incident, dict[str, Any]] | None:
        """An incident, whose it is, and as it is shown; None where there is none of this id."""
        (shown,) = await self._shown([incident_id])
        if shown is None:
            return None
        return StreamKey(self._tenant, shown[0].stream), *shown

    async def kept(self, ids: Sequence[str]) -> list[Incident]:
        """The incidents of these ids, in their order; without those that are not there."""
        return [one[0] for one in await self._shown(ids) if one is not None]

    async def changed(
        self, since_ms: int, most: int, after: Listed | None = None
    ) -> tuple[list[tuple[int, dict[str, Any]]], Listed | None]:
        """Up to `most` incidents that changed since a time, the first first: when, and as they are shown.

        Args:
            after: where the page before ended, as it said.

        Returns:
            With them, where to go on; None at the end.
        """
        listed = await self._store.listed(
            self._tenant, 2**53, since_ms, most, changed=True, oldest_first=True, after=after
        )
        shown = await self._shown([id_.decode() for _, id_ in listed])
        found = [(at, one[1]) for (at, _), one in zip(listed, shown, strict=True) if one is not None]
        return found, listed[-1] if len(listed) == most else None

    async def say(
        self, stream: StreamKey, n: int, change: Callable[[words.Words], words.Words], now_ms: int
    ) -> words.Words:
        """Change what people said of an incident."""

        def changed(kept: bytes) -> bytes:
            return msgspec.msgpack.encode(change(words.decode(kept)))

        return words.decode(await self._store.say(stream, n, changed, id_of(n, stream.name).encode(), now_ms))

    async def _shown(self, ids: Sequence[str]) -> list[tuple[Incident, dict[str, Any]] | None]:
        parsed = [number_and_stream(one) for one in ids]
        known = [(StreamKey(self._tenant, stream), n) for n, stream in filter(None, parsed)]
        kept = iter(await self._store.find(known) if known else [])
        found: list[tuple[Incident, dict[str, Any]] | None] = []
        for one in parsed:
            if one is None:
                found.append(None)
                continue
            content, said = next(kept)
            incident = decode(content) if content else None
            found.append(None if incident is None else (incident, shown(incident, words.decode(said))))
        return found


def shown(incident: Incident, said: words.Words) -> dict[str, Any]:
    """An incident as the API shows it."""
    return {
        "id": incident.id,
        "stream": incident.stream,
        "group": incident.group or None,
        "tag": incident.tag or None,
        "tags": incident.tags,
        "state": "open" if incident.is_open else "ended",
        "model": incident.model,
        "onset": format_time(incident.onset_ms),
        "start": format_time(incident.start_ms),
        "last": format_time(incident.last_ms),
        "end": None if incident.end_ms is None else format_time(incident.end_ms),
        "reason": incident.reason,
        "peak_score": incident.peak_score,
        "peak": format_time(incident.peak_ms),
        "last_score": incident.last_score,
        "anomalous": incident.anomalous,
        "judged": incident.judged,
        "channels": [msgspec.to_builtins(share) for share in incident.channels],
        "alerts": [_alert(one) for one in incident.alerts],
        "told": incident.untold is None,
        "untold": incident.untold,
        "window": incident.window,
        "gate": incident.gate,
        "gated": incident.gated,
        "acknowledged": _said(said.acknowledged),
        "closed": _said(said.closed),
        "label": said.label,
        "labelled": _said(said.labelled),
        "notes": [{"text": one.text, "by": one.by, "at": format_time(one.at_ms)} for one in said.notes],
    }


def _alert(alert: RaisedAlert) -> dict[str, Any]:
    fields = msgspec.structs.asdict(alert)
    return {"timestamp": format_time(fields.pop("timestamp_ms")), **fields}


def _said(said: words.Said | None) -> dict[str, str] | None:
    return None if said is None else {"by": said.by, "at": format_time(said.at_ms)}
