"""The endpoints for policies: what people ask of streams, by pattern or one by one; and for maintenance windows."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request, Response

from gatewatch.service.doors.door import STREAM_NAME
from gatewatch.service.errors import InvalidPolicies, InvalidRequest
from gatewatch.service.http.openapi import AWAY, NO_BODY, OF_A_STREAM, OTHER_METHOD, found, problem_with, ref
from gatewatch.service.http.parts import caller_of, key_of, number_seen, parts_of, replied, sent_as, tenant_of
from gatewatch.service.policies.policy import Policies, Policy, PolicyDocument
from gatewatch.service.policies.windows import WINDOW_NAME, Window

router = APIRouter()

POLICIES_BYTES: Final = 8 * 2**20
"""Of a body with policies: as many patterns and streams as there may be."""

_STREAM_PATH = Path(description="the stream's name", pattern=f"^{STREAM_NAME.pattern}$", max_length=128)
_WINDOW_PATH = Path(description="the window's name", pattern=f"^{WINDOW_NAME.pattern}$", max_length=64)
_WINDOWS: Final = found("All windows by name, and whether each is going on", {"type": "object"})
_NO_WINDOW: Final = problem_with("Not a window, or not the name of one; all is as it was")
_TAGGED: Final = {"ETag": {"required": True, "schema": {"type": "string"}}}
_FOUND: Final = {**found("The policies, and who wrote them", {"type": "object"}), "headers": _TAGGED}
_OF_STREAM: Final = found("`asked` of the stream by itself, and `policy`, of all that fits it", {"type": "object"})


@router.get(
    "/v1/policies",
    summary="What is asked of streams",
    response_model=None,
    responses={200: _FOUND, 405: OTHER_METHOD, 503: AWAY},
)
async def get_policies(request: Request) -> Response:
    """`policies` by pattern, in order, and `streams` with one of their own; the ETag is for If-Match of a change."""
    return await _shown(await parts_of(request).policies.newest(tenant_of(request)))


@router.put(
    "/v1/policies",
    summary="Change what is asked of streams",
    response_model=None,
    responses={
        200: _FOUND,
        **NO_BODY,
        405: OTHER_METHOD,
        412: problem_with("Somebody else changed them meanwhile: look at them, and do it again"),
        422: problem_with("Not policies; all is as it was"),
        503: AWAY,
    },
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": ref("Policies")}}}},
)
async def put_policies(request: Request) -> Response:
    """All of them at once. Every process goes by them within two seconds."""
    asked = await sent_as(request, Policies, InvalidPolicies, POLICIES_BYTES)
    policies, seen = parts_of(request).policies, number_seen(request)
    return await _shown(await policies.put(tenant_of(request), asked, caller_of(request), seen))


@router.get(
    "/v1/streams/{stream}/policy",
    summary="What is asked of a stream",
    response_model=None,
    responses={200: _OF_STREAM, **OF_A_STREAM},
)
async def get_policy(request: Request, stream: Annotated[str, _STREAM_PATH]) -> dict[str, Any]:
    """`asked` of it by itself, and `policy`: what that comes to with the patterns that fit its name.

    `gates_without_channel`: patterns of gates that mean none of the channels that the stream has sent.
    """
    policies, key = parts_of(request).policies, key_of(request, stream)
    document = await policies.newest(key.tenant)
    own, policy = document.asked.streams.get(stream, Policy()), policies.of(key)
    shown = {
        "stream": stream,
        "asked": own.model_dump(mode="json", exclude_unset=True),
        "policy": policy.model_dump(mode="json", exclude_unset=True),
    }
    if policy.gates:
        channels = await parts_of(request).inspection.channels(key)
        meaningless = {gate.channel for gate in policy.gates if not any(map(gate.means, channels))}
        shown["gates_without_channel"] = sorted(meaningless)
    return shown


@router.put(
    "/v1/streams/{stream}/policy",
    summary="Change what is asked of a stream",
    response_model=None,
    responses={200: _OF_STREAM, **NO_BODY, **OF_A_STREAM},
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": ref("Policy")}}}},
)
async def put_policy(request: Request, stream: Annotated[str, _STREAM_PATH]) -> dict[str, Any]:
    """Of it by itself, whether or not it has sent a reading; an empty object asks nothing."""
    policy = await sent_as(request, Policy, InvalidPolicies)
    await parts_of(request).policies.put_one(key_of(request, stream), policy, caller_of(request))
    return await get_policy(request, stream)


@router.get(
    "/v1/windows",
    summary="Maintenance windows",
    response_model=None,
    responses={200: _WINDOWS, 405: OTHER_METHOD, 503: AWAY},
)
async def get_windows(request: Request) -> Response:
    """`windows` by name, each with `active`: whether it is going on now."""
    return await _windows(request, await parts_of(request).policies.newest(tenant_of(request)))


@router.put(
    "/v1/windows/{window}",
    summary="Have a maintenance window",
    response_model=None,
    responses={200: _WINDOWS, **NO_BODY, 405: OTHER_METHOD, 422: _NO_WINDOW, 503: AWAY},
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": ref("Window")}}}},
)
async def put_window(request: Request, window: Annotated[str, _WINDOW_PATH]) -> Response:
    """Instead of the one of this name, if there is one. Every process goes by it within two seconds."""
    asked = await sent_as(request, Window, InvalidRequest)
    return await _put_window(request, window, asked)


@router.delete(
    "/v1/windows/{window}",
    summary="End a maintenance window, or take it away",
    response_model=None,
    responses={200: _WINDOWS, 405: OTHER_METHOD, 422: _NO_WINDOW, 503: AWAY},
)
async def delete_window(request: Request, window: Annotated[str, _WINDOW_PATH]) -> Response:
    """One that is not there is taken away too."""
    return await _put_window(request, window, None)


async def _put_window(request: Request, name: str, window: Window | None) -> Response:
    policies = parts_of(request).policies
    return await _windows(request, await policies.put_window(tenant_of(request), name, window, caller_of(request)))


async def _windows(request: Request, document: PolicyDocument) -> Response:
    now_ms = parts_of(request).clock.unix_ms()

    def shown() -> dict[str, Any]:
        found = {
            name: {**one.model_dump(mode="json", exclude_unset=True), "active": one.active(name).has(now_ms)}
            for name, one in sorted(document.windows.items())
        }
        return {"windows": found}

    return await replied(shown)


async def _shown(document: PolicyDocument) -> Response:
    about = {"number": document.number, "at": document.at, "by": document.by}
    return await replied(lambda: {**about, **document.asked.written()}, {"ETag": f'"{document.number}"'})
