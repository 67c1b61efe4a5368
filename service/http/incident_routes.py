"""The endpoints of incidents: to list, read and answer them, and to hear of them as they change."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Header, Path, Query, Request, Response
from starlette.responses import StreamingResponse

from gatewatch.models.detectors.asked import words as words_of
from gatewatch.models.recordings.values import LATEST_S
from gatewatch.service.core import records as state
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import InvalidAnswer, TooManyWaiting, UnknownIncident
from gatewatch.service.http.guard import is_still_admitted
from gatewatch.service.http.openapi import AWAY, NO_BODY, OTHER_METHOD, found, problem_with, ref
from gatewatch.service.http.parts import TAG, caller_of, parts_of, replied, sent_as, tenant_of
from gatewatch.service.incidents import began, words
from gatewatch.service.incidents.incident import INCIDENT_REASONS, Incident
from gatewatch.service.incidents.reading import IncidentReader, Search, shown
from gatewatch.service.incidents.words import Answer, LabelAnswer, NoteAnswer
from gatewatch.service.policies.policy import Policy
from gatewatch.service.policies.quiet import Fault, Quiet, Reading, fault_of, quiet_of
from gatewatch.service.proofs.packing import packed

router = APIRouter()

ASK_AGAIN_S: Final = 1.5
"""Between two looks whether a listener may still listen: with those of KeyRing, a revoked key is out within 5 s."""

ID: Final = r"^s?[0-9]{1,20}\.[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
_ID_PATH = Path(description="the incident's id", pattern=ID, max_length=160)
_UNKNOWN = problem_with("No such incident")
_OF_INCIDENT: Final[dict[int | str, Any]] = {
    404: _UNKNOWN,
    405: OTHER_METHOD,
    422: problem_with("Not the id of an incident, or not what is taken"),
    503: AWAY,
}
_INCIDENT = {200: found("The incident", ref("Incident")), **_OF_INCIDENT}


@router.get(
    "/v1/incidents",
    summary="Incidents, those that began last first",
    response_model=None,
    responses={
        200: found("One page of incidents", ref("IncidentPage")),
        405: OTHER_METHOD,
        422: problem_with("Not a search that is understood"),
        503: AWAY,
    },
)
async def list_incidents(
    request: Request,
    state: Annotated[Literal["open", "ended"] | None, Query(description="open or ended; both if not given")] = None,
    stream: Annotated[str, Query(max_length=256, description="a pattern of names, * for anything")] = "",
    reason: Annotated[
        str | None, Query(description="of the highest score", pattern=f"^({'|'.join(INCIDENT_REASONS)})$")
    ] = None,
    tag: Annotated[
        str, Query(**TAG, description="that its stream had when it began: name=value, or a name for any value")
    ] = "",
    min_score: Annotated[float, Query(ge=0, description="least highest score")] = 0,
    since: Annotated[float, Query(ge=0, le=LATEST_S, description="began at this Unix time (s) or later")] = 0,
    until: Annotated[
        float | None, Query(ge=0, le=LATEST_S, description="began at this Unix time, in seconds, or before")
    ] = None,
    group: Annotated[
        str, Query(pattern=f"^({ID[1:-1]})?$", max_length=160, description="all of a group, in the order of onset")
    ] = "",
    after: Annotated[str, Query(pattern=r"^([0-9]{1,16}_[A-Za-z0-9._-]{1,160})?$", description="`next` before")] = "",
    limit: Annotated[int, Query(ge=1, le=500, description="most incidents in the reply")] = 50,
) -> Response:
    """Page by page: `incidents` and `next` (null on the last page). Pages of a narrow search may not be full.

    With `group`, those that began first come first, and `since` and `until` do not count.
    """
    parts = parts_of(request)
    until_ms = 2**53 if until is None else round(until * 1000)
    search = Search(state, stream, reason, tag, min_score, round(since * 1000), until_ms)
    async with parts.store.reading.of(tenant_of(request)):
        if group:
            incidents, next_ = await _reader(request).of_group(parts.groups, group, search, after, limit)
        else:
            incidents, next_ = await _reader(request).page(search, after, limit)
    return await replied(lambda: {"incidents": incidents, "next": next_})


@router.get(
    "/v1/incidents/stream",
    summary="Incidents as they change",
    response_class=StreamingResponse,
    responses={
        200: found("Server-sent events; the data of each is an incident", ref("Incident"), "text/event-stream"),
        405: OTHER_METHOD,
        422: problem_with("Not the id of an event"),
        429: problem_with("As many listen as may", "Retry-After"),
    },
)
async def incident_events(
    request: Request,
    last_event_id: Annotated[int | None, Header(ge=0, le=2**53, description="the last event that was heard")] = None,
) -> StreamingResponse:
    """Every change of an incident of any stream, within a second or two. After a break, send Last-Event-ID to go on.

    An incident may come twice; its `id` and what stands in it tell. It ends within five seconds once the key is revoked
    or has expired.
    """
    parts = parts_of(request)
    if not parts.feed.has_room(tenant_of(request)):
        raise TooManyWaiting("as many listen to the incidents as may; ask for /v1/incidents now and then instead")
    return StreamingResponse(
        _events(request, last_event_id),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store"},
    )


async def _events(request: Request, since_ms: int | None) -> AsyncIterator[str]:
    parts, asked = parts_of(request), time.monotonic()
    yield "retry: 2000\n\n"
    async with aclosing(parts.feed.changes(tenant_of(request), since_ms)) as changes:
        async for change in changes:
            if time.monotonic() - asked > ASK_AGAIN_S:
                if not await is_still_admitted(parts.access, request.scope):
                    return
                asked = time.monotonic()
            yield ":\n\n" if change is None else f"id: {change[0]}\ndata: {json.dumps(change[1])}\n\n"


@router.get(
    "/v1/dead-letters",
    summary="Events that the webhook did not take",
    response_model=None,
    responses={
        200: found("The last first", ref("DeadLetters")),
        405: OTHER_METHOD,
        422: problem_with("Not a number of letters"),
        503: AWAY,
    },
)
async def get_dead_letters(
    request: Request, limit: Annotated[int, Query(ge=1, le=1000, description="most letters in the reply")] = 100
) -> dict[str, Any]:
    """Of the tenant: what was given up after it had been tried for as long as the settings say, and why."""
    parts = parts_of(request)
    async with parts.store.reading.of(tenant_of(request)):
        letters = await parts.outbox.dead_letters(tenant_of(request), limit)
    return {"letters": [msgspec.json.decode(letter) for letter in letters]}


@router.get("/v1/incidents/{incident}", summary="One incident", response_model=None, responses=_INCIDENT)
async def get_incident(request: Request, incident: Annotated[str, _ID_PATH]) -> dict[str, Any]:
    """With the readings around it, as far as they are kept: `readings`, as the history of a stream has them."""
    parts = parts_of(request)
    async with parts.store.reading.of(tenant_of(request)):
        known = await _reader(request).one(incident)
        if known is None:
            raise _unknown(incident)
        stream, one, as_shown = known
        rings = await parts.store.incidents.histories(stream, one.n)
    kept = parts.inspection.readings_in(stream, rings if one.is_open else rings[:2], parts.encoder)
    return as_shown | {
        "readings": [{"n": n, "values": values, "result": msgspec.json.decode(answer)} for n, values, answer in kept]
    }


@router.get(
    "/v1/incidents/{incident}/proof",
    summary="What an incident's verdicts follow from",
    response_model=None,
    responses={
        200: found("State, readings and verdicts", ref("ProofOfIncident")),
        **_OF_INCIDENT,
        404: problem_with("No such incident, or nothing of it is kept to prove it from"),
    },
)
async def get_proof(request: Request, incident: Annotated[str, _ID_PATH]) -> dict[str, Any]:
    """The state before the incident, and the readings from there on, as far as they are kept without a gap.

    `gatewatch prove` makes a file of it, `gatewatch verify` computes that anew elsewhere.
    """
    parts = parts_of(request)
    async with parts.store.reading.of(tenant_of(request)):
        known = await _reader(request).one(incident)
        if known is None:
            raise _unknown(incident)
        stream, one, _ = known
        began_from = began.decode(await parts.store.incidents.began(stream, one.n))
        rings = await parts.store.incidents.histories(stream, one.n)
        if not one.is_open and rings[1]:
            rings = rings[:2]  # the stream's own has readings since, which a person's close may have had judged anew
        await parts.policies.know([stream])
    seed = parts.store.seeds([stream])[0]
    return packed(one, began_from, rings, seed, lambda channels: words_of(parts.policies.asked([stream], [channels])))


@router.post(
    "/v1/incidents/{incident}/acknowledge",
    summary="Say that somebody has seen it",
    response_model=None,
    responses={**_INCIDENT, **NO_BODY},
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": ref("Answer")}}}},
)
async def acknowledge(request: Request, incident: Annotated[str, _ID_PATH]) -> dict[str, Any]:
    """The first one counts; who comes later sees who it was."""
    answer = await sent_as(request, Answer, InvalidAnswer, absent=b"{}")
    return await _say(request, incident, answer, lambda before, said: words.acknowledge(before, said))


@router.post(
    "/v1/incidents/{incident}/close",
    summary="End it, and learn again",
    response_model=None,
    responses={**_INCIDENT, **NO_BODY},
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": ref("Answer")}}}},
)
async def close(request: Request, incident: Annotated[str, _ID_PATH]) -> dict[str, Any]:
    """An incident of a stream whose policy says `hold` stays open until then. What is still strange is another one.

    The first who closes it counts; one that has ended stays as it is. A silence is ended by its stream alone.
    """
    answer = await sent_as(request, Answer, InvalidAnswer, absent=b"{}")
    parts = parts_of(request)
    async with parts.store.changing.of(tenant_of(request)):
        known = await _reader(request).one(incident)
    if known is None:
        raise _unknown(incident)
    stream, one, as_shown = known
    if one.is_open and one.is_silence:
        raise InvalidAnswer("a silence ends when its stream sends again; nobody can close it")
    if one.is_open:
        async with parts.store.changing.of(tenant_of(request)):
            await parts.closing.close(stream, one.n)
            known = await _reader(request).one(incident)
        if known is None:
            raise _unknown(incident)
    _, one, as_shown = known
    if not one.closed or as_shown["closed"]:
        return as_shown
    return await _say(request, incident, answer, words.close)


@router.post(
    "/v1/incidents/{incident}/label",
    summary="Say what it turned out to be",
    response_model=None,
    responses={**_INCIDENT, **NO_BODY},
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": ref("LabelAnswer")}}}},
)
async def label(request: Request, incident: Annotated[str, _ID_PATH]) -> dict[str, Any]:
    """`true`: a fault; `false_alarm`: nothing was wrong; `expected`: unusual, and known. The last one counts.

    What is like a false alarm is quiet on its stream from now on; `quiet` says what that comes to.
    """
    answer = await sent_as(request, LabelAnswer, InvalidAnswer)
    parts = parts_of(request)
    async with parts.store.changing.of(tenant_of(request)):
        known = await _reader(request).one(incident)
        if known is None:
            raise _unknown(incident)
        stream, one, _ = known
        one = await parts.current.of(stream, one)
        await _take_label(request, stream, one, answer.label)
    said = await _say(request, incident, answer, lambda before, said: words.label(before, answer.label, said))
    async with parts.store.changing.of(tenant_of(request)):
        label: str | None = said["label"]
        while True:  # somebody else may label it as well: in the end both say the same
            own = await _take_label(request, stream, one, label)
            known = await _reader(request).one(incident)
            if known is None or known[2]["label"] == label:
                break
            label = known[2]["label"]
    return said | {"quiet": [each.model_dump(mode="json") for each in own.quiet]}


async def _take_label(request: Request, stream: StreamKey, incident: Incident, label: str | None) -> Policy:
    """Have what is like an incident be quiet if it is a false alarm, never be held back if it is true, else neither.

    Returns:
        What is asked of the stream by itself since.
    """
    like = await _like(request, stream, incident) if label == "false_alarm" else []
    faults = await _fault(request, stream, incident) if label == "true" else []
    return await parts_of(request).policies.label(stream, incident.id, like, faults, caller_of(request))


async def _fault(request: Request, stream: StreamKey, incident: Incident) -> list[Fault]:
    """What is like a true alarm, where a budget is held that could hold it back."""
    parts = parts_of(request)
    await parts.policies.newest(stream.tenant)
    held = parts.policies.of(stream).held
    if held is None or incident.is_silence:
        return []
    kept = began.decode(await parts.store.incidents.began(stream, incident.n))
    part = None if kept is None else state.stream_part(kept.record, parts.store.seeds([stream])[0])
    if kept is None or part is None:
        return [fault_of(incident, 0.0, incident.peak_ms, held)]
    return [fault_of(incident, state.level_in(kept.record), int(part[0]["last_ms"][0]), held)]


async def _like(request: Request, stream: StreamKey, incident: Incident) -> list[Quiet]:
    """What is like a false alarm, by its highest score and those of its readings, from the onset on, that are kept."""
    parts = parts_of(request)
    rings = await parts.store.incidents.histories(stream, incident.n)
    kept = parts.inspection.readings_in(stream, rings if incident.is_open else rings[:2], parts.encoder)
    onset, readings = datetime.fromtimestamp(incident.onset_ms / 1000, UTC), []
    for one in kept:
        result = msgspec.json.decode(one.answer)
        if one.n <= incident.last_n and datetime.fromisoformat(result["timestamp"]) >= onset:
            readings.append(Reading(one.values, result))
    return quiet_of(incident, readings)


@router.post(
    "/v1/incidents/{incident}/note",
    summary="Write a remark",
    response_model=None,
    responses={**_INCIDENT, **NO_BODY},
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": ref("NoteAnswer")}}}},
)
async def note(request: Request, incident: Annotated[str, _ID_PATH]) -> dict[str, Any]:
    """Notes stand in the order in which they came; of more than 100 the first and the latest are kept."""
    answer = await sent_as(request, NoteAnswer, InvalidAnswer)
    return await _say(request, incident, answer, lambda before, said: words.note(before, answer.text, said))


def _reader(request: Request) -> IncidentReader:
    """Reads the incidents that are the caller's."""
    return IncidentReader(parts_of(request).store.incidents, tenant_of(request))


async def _say(
    request: Request, incident: str, answer: Answer, change: Callable[[words.Words, words.Said], words.Words]
) -> dict[str, Any]:
    parts = parts_of(request)
    said = words.Said(answer.by.strip(), parts.clock.unix_ms())
    async with parts.store.changing.of(tenant_of(request)):
        known = await _reader(request).one(incident)
        if known is None:
            raise _unknown(incident)
        stream, one, _ = known
        after = await _reader(request).say(stream, one.n, lambda before: change(before, said), said.at_ms)
    return shown(one, after)


def _unknown(incident: str) -> UnknownIncident:
    return UnknownIncident(f"no incident {incident} is kept; GATEWATCH_INCIDENT_DAYS says for how long they are")
