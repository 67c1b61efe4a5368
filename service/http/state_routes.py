"""The endpoints of what streams stand at: export, import, snapshots, reset, fork."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response

from gatewatch.models.artefact.versions import REFERENCE
from gatewatch.service.access.access import IDENTITY
from gatewatch.service.access.audit import DETAIL
from gatewatch.service.core import state_file
from gatewatch.service.core.outcomes import Encoder
from gatewatch.service.doors.door import STREAM_NAME, Form, Part
from gatewatch.service.doors.named_readings import LONGEST_NAME
from gatewatch.service.errors import (
    BadRequest,
    InvalidRequest,
    MissingScope,
    NoSuchSnapshot,
    ServiceError,
    StoreUnavailable,
)
from gatewatch.service.http.bodies import ClientGone
from gatewatch.service.http.ingest import headers_of
from gatewatch.service.http.openapi import NO_BODY, NO_ROOM, OF_A_STREAM, POST_READINGS, found, problem_with, ref
from gatewatch.service.http.parts import key_of, parts_of, sent_as, tenant_of
from gatewatch.service.http.routes import KNOWN, STREAM_PATH, UNKNOWN, get_stream
from gatewatch.service.http.state_requests import SNAPSHOT_NAME, SnapshotDetails, SnapshotRequest

router = APIRouter()

OCTETS: Final = "application/octet-stream"
_SNAPSHOT_PATH = Path(description="the snapshot's name", pattern=SNAPSHOT_NAME)
_THERE = problem_with("It is there already, or as many as there may be")
_NO_SNAPSHOT = problem_with("No such snapshot of the stream")


@router.get(
    "/v1/streams/{stream}/state",
    summary="Export what a stream stands at",
    response_class=Response,
    responses={200: found("The state, a file", {"type": "string"}, OCTETS), 404: UNKNOWN, **OF_A_STREAM},
)
async def get_state(request: Request, stream: Annotated[str, STREAM_PATH]) -> Response:
    """One file: record, history, settings, the model's digest, versions and a checksum. PUT takes it in."""
    parts = parts_of(request)
    async with parts.store.reading.of(tenant_of(request)):
        content = await parts.states.export(key_of(request, stream))
    named = {"content-disposition": f'attachment; filename="{stream}.state"'}
    return Response(content, media_type=OCTETS, headers=named)


@router.put(
    "/v1/streams/{stream}/state",
    summary="Have a stream go on from an exported state",
    response_model=None,
    responses={200: KNOWN, **NO_BODY, 409: _THERE, **OF_A_STREAM, 422: problem_with("A state that cannot be taken in")},
    openapi_extra={"requestBody": {"required": True, "content": {OCTETS: {"schema": {"type": "string"}}}}},
)
async def put_state(
    request: Request,
    stream: Annotated[str, STREAM_PATH],
    as_: Annotated[
        Literal["new"] | None,
        Query(alias="as", description="new: the state, also of another stream, begins a new one of this name"),
    ] = None,
) -> dict[str, Any]:
    """In place of whatever it stood at. A state that is damaged, of another stream or an unknown model is refused."""
    parts, tenant = parts_of(request), tenant_of(request)
    parts.quota_bytes.check(tenant)
    try:
        with parts.bodies.of(headers_of(request.scope), tenant) as body:
            content = await body.read(request.receive)
            parts.quota_bytes.take(tenant, len(content))
            async with parts.store.changing.of(tenant_of(request)):
                taken = await parts.states.take_in(key_of(request, stream), content, as_new=as_ == "new")
    except ClientGone:
        raise BadRequest("the connection was closed before the body was whole") from None
    request.scope[DETAIL] = {"of": taken.stream, "readings": taken.readings, "tag": taken.tag, "as": as_}
    return await get_stream(request, stream)


@router.post(
    "/v1/streams/{stream}/warm-up",
    summary="Take in readings of a stream's past",
    response_model=None,
    responses={
        200: found("What became of them, and what the stream stands at since", ref("WarmUp")),
        **NO_BODY,
        429: NO_ROOM,
        **OF_A_STREAM,
    },
    openapi_extra=POST_READINGS,
)
async def warm_up(request: Request, stream: Annotated[str, STREAM_PATH]) -> dict[str, Any]:
    """In any form of POST readings. The stream then stands where it would, had it sent them live; nobody is alerted.

    What is older than its last reading is late, as ever.
    """
    parts = parts_of(request)

    async def taken(items: list[Part], _: Form, __: Encoder) -> dict[str, Any]:
        return await parts.past.take(items)

    try:
        done = await parts.ingest.beside(request.scope, request.receive, stream, taken)
    except ClientGone:
        raise BadRequest("the connection was closed before the body was whole") from None
    request.scope[DETAIL] = {what: of for what, of in done.items() if what != "unknown"}  # its names may be long
    async with parts.store.reading.of(tenant_of(request)):
        return {**done, "stream": await parts.inspection.describe(key_of(request, stream))}


@router.get(
    "/v1/streams/{stream}/snapshots",
    summary="A stream's snapshots",
    response_model=None,
    responses={
        200: found("The snapshots, the first one first", {"type": "array", "items": ref("SnapshotDetails")}),
        **OF_A_STREAM,
    },
)
async def list_snapshots(request: Request, stream: Annotated[str, STREAM_PATH]) -> list[dict[str, Any]]:
    """Name, when each was taken, and what the stream stood at then."""
    parts = parts_of(request)
    async with parts.store.reading.of(tenant_of(request)):
        kept = await parts.snapshots.about_each(key_of(request, stream))
    about: list[dict[str, Any]] = [msgspec.json.decode(one) for one in kept]
    return sorted(about, key=lambda one: (one["taken_at"], one["name"]))


@router.post(
    "/v1/streams/{stream}/snapshots",
    summary="Keep what a stream stands at under a name",
    response_model=None,
    responses={
        200: found("The snapshot", ref("SnapshotDetails")),
        404: UNKNOWN,
        409: _THERE,
        **NO_BODY,
        **OF_A_STREAM,
    },
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": ref("SnapshotRequest")}}}
    },
)
async def take_snapshot(request: Request, stream: Annotated[str, STREAM_PATH]) -> dict[str, Any]:
    """Within the service, in Redis; as many as GATEWATCH_SNAPSHOTS says of each stream."""
    sent = await sent_as(request, SnapshotRequest, InvalidRequest)
    parts, key = parts_of(request), key_of(request, stream)
    parts.quota_bytes.check(key.tenant)
    async with parts.store.changing.of(tenant_of(request)):
        content = await parts.states.export(key)
        parts.quota_bytes.take(key.tenant, len(content))
        file, _ = state_file.read(content)
        details = SnapshotDetails(
            sent.name, file.taken_at, file.readings, file.last_timestamp, file.model, file.tag, len(content)
        )
        await parts.snapshots.add(key, sent.name, content, msgspec.json.encode(details))
    return msgspec.structs.asdict(details)


@router.post(
    "/v1/streams/{stream}/snapshots/{snapshot}/rollback",
    summary="Have a stream go on from a snapshot",
    response_model=None,
    responses={200: KNOWN, 404: _NO_SNAPSHOT, **OF_A_STREAM, 422: problem_with("Not a name, or a damaged snapshot")},
)
async def roll_back(
    request: Request, stream: Annotated[str, STREAM_PATH], snapshot: Annotated[str, _SNAPSHOT_PATH]
) -> dict[str, Any]:
    """What was applied since is undone, with its incidents. The snapshot stays."""
    parts, key = parts_of(request), key_of(request, stream)
    parts.quota_bytes.check(key.tenant)
    async with parts.store.changing.of(tenant_of(request)):
        content = await parts.snapshots.read(key, snapshot)
        if content is None:
            raise NoSuchSnapshot(f"stream {stream} has no snapshot {snapshot}")
        parts.quota_bytes.take(key.tenant, len(content))
        await parts.states.take_in(key, content, as_new=False)
    return await get_stream(request, stream)


@router.delete(
    "/v1/streams/{stream}/snapshots/{snapshot}",
    status_code=204,
    summary="Forget a snapshot",
    responses={404: _NO_SNAPSHOT, **OF_A_STREAM},
)
async def delete_snapshot(
    request: Request, stream: Annotated[str, STREAM_PATH], snapshot: Annotated[str, _SNAPSHOT_PATH]
) -> None:
    """The stream goes on as it is."""
    parts = parts_of(request)
    async with parts.store.changing.of(tenant_of(request)):
        known = await parts.snapshots.delete(key_of(request, stream), snapshot)
    if not known:
        raise NoSuchSnapshot(f"stream {stream} has no snapshot {snapshot}")


@router.delete(
    "/v1/streams/{stream}/channels",
    summary="Remove a channel of a stream",
    response_model=None,
    responses={
        200: KNOWN,
        404: problem_with("No such stream, or it has no such channel"),
        409: problem_with("The model of the stream wants the channel, or it is the only one"),
        **OF_A_STREAM,
    },
)
async def remove_channel(
    request: Request,
    stream: Annotated[str, STREAM_PATH],
    channel: Annotated[str, Query(description="its name", min_length=1, max_length=LONGEST_NAME)],
) -> dict[str, Any]:
    """It leaves state and history, the others keep theirs. A reading that has it brings it again, as a new one."""
    parts = parts_of(request)
    request.scope[DETAIL] = {"channel": channel}
    async with parts.store.changing.of(tenant_of(request)):
        await parts.states.remove_channel(key_of(request, stream), channel)
    return await get_stream(request, stream)


@router.post(
    "/v1/streams/{stream}/fork",
    summary="Copy a stream under another name",
    response_model=None,
    responses={
        200: KNOWN,
        404: problem_with("No such stream, or no such model"),
        409: _THERE,
        **OF_A_STREAM,
        400: problem_with("It would be one stream too many"),
        422: problem_with("Not a name, or a model that cannot be served"),
    },
)
async def fork_stream(
    request: Request,
    stream: Annotated[str, STREAM_PATH],
    to: Annotated[str, Query(description="the copy's name", pattern=f"^{STREAM_NAME.pattern}$", max_length=128)],
    model: Annotated[
        str | None,
        Query(
            description="pin the copy to this model, as pumps@3; needs the scope admin",
            pattern=f"^(?:{REFERENCE.pattern})$",
        ),
    ] = None,
) -> dict[str, Any]:
    """The copy has state, history and settings, no incidents and no snapshots. Another model replays its history."""
    parts, key, copy = parts_of(request), key_of(request, stream), key_of(request, to)
    request.scope[DETAIL] = {"to": to, "model": model}
    identity, administration = request.scope[IDENTITY], parts.models.administration
    if model is not None and "admin" not in identity.scopes:
        raise MissingScope("admin")
    parts.quota_bytes.check(key.tenant)
    await parts.states.require_new(copy)
    token = None if model is None else await administration.pin_fork(copy, model, identity.name)
    try:
        async with parts.store.changing.of(tenant_of(request)):
            parts.quota_bytes.note(key.tenant, await parts.states.copy(key, copy))
    except StoreUnavailable:  # nobody knows whether the stream is there; a pin of one that is not does no harm
        raise
    except ServiceError:
        if token is not None:
            with contextlib.suppress(ServiceError):
                await administration.undo_fork(copy, token, identity.name)
        raise
    if token is not None:
        with contextlib.suppress(ServiceError):  # the stream is there, and so is its pin
            await administration.keep_fork(copy, token, identity.name)
    return await get_stream(request, to)
